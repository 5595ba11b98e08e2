#define _GNU_SOURCE
#include "shim.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Since kernel 6.6; the headers that this is built with may be older. */
#define FLAG_BEFORE (1U << 3)

static __thread int last_error;

int rk_errno(void)
{
	return last_error;
}

int rk_map_create(int type, const char *name, uint32_t key_size, uint32_t value_size,
		  uint32_t max_entries, uint32_t flags)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = flags);

	return bpf_map_create(type, name, key_size, value_size, max_entries, &opts);
}

int rk_map_info(int fd, struct rk_map_info *info)
{
	struct bpf_map_info kernel = {};
	uint32_t size = sizeof(kernel);
	int err = bpf_obj_get_info_by_fd(fd, &kernel, &size);

	if (err)
		return err;
	info->type = kernel.type;
	info->id = kernel.id;
	info->key_size = kernel.key_size;
	info->value_size = kernel.value_size;
	info->max_entries = kernel.max_entries;
	info->flags = kernel.map_flags;
	return 0;
}

int rk_map_lookup(int fd, const void *key, void *value)
{
	return bpf_map_lookup_elem(fd, key, value);
}

int rk_map_update(int fd, const void *key, const void *value)
{
	return bpf_map_update_elem(fd, key, value, BPF_ANY);
}

int rk_map_delete(int fd, const void *key)
{
	return bpf_map_delete_elem(fd, key);
}

int rk_map_next_key(int fd, const void *key, void *next)
{
	return bpf_map_get_next_key(fd, key, next);
}

int rk_map_update_batch(int fd, const void *keys, const void *values, uint32_t *count)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts);

	return bpf_map_update_batch(fd, keys, values, count, &opts);
}

int rk_map_delete_batch(int fd, const void *keys, uint32_t *count)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts);

	return bpf_map_delete_batch(fd, keys, count, &opts);
}

int rk_map_lookup_batch(int fd, void *in, void *out, void *keys, void *values, uint32_t *count)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts);

	return bpf_map_lookup_batch(fd, in, out, keys, values, count, &opts);
}

int rk_possible_cpus(void)
{
	return libbpf_num_possible_cpus();
}

void *rk_map_mmap(int fd, size_t size)
{
	void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	last_error = errno;
	return address == MAP_FAILED ? NULL : address;
}

int rk_munmap(void *address, size_t size)
{
	return munmap(address, size) ? -errno : 0;
}

void rk_store_release(uint32_t *address, uint32_t value)
{
	__atomic_store_n(address, value, __ATOMIC_RELEASE);
}

uint32_t rk_load_acquire(const uint32_t *address)
{
	return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}

int rk_pin(int fd, const char *path)
{
	return bpf_obj_pin(fd, path);
}

int rk_get(const char *path)
{
	return bpf_obj_get(path);
}

int rk_is_bpffs(const char *path)
{
	struct statfs fs;

	if (statfs(path, &fs))
		return -errno;
	return (unsigned long)fs.f_type == BPF_FS_MAGIC;
}

int rk_mount_bpffs(const char *path)
{
	return mount("bpf", path, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RELATIME, "mode=0700")
		       ? -errno
		       : 0;
}

struct bpf_object *rk_open(const char *path)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);

	last_error = errno;
	return object;
}

int rk_use_map(struct bpf_object *object, const char *name, int fd)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object, name);

	return map ? bpf_map__reuse_fd(map, fd) : -ENOENT;
}

int rk_skip_program(struct bpf_object *object, const char *name)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object, name);

	return program ? bpf_program__set_autoload(program, false) : -ENOENT;
}

int rk_load(struct bpf_object *object)
{
	return bpf_object__load(object);
}

int rk_program_fd(struct bpf_object *object, const char *name)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object, name);

	return program ? bpf_program__fd(program) : -ENOENT;
}

void rk_close_object(struct bpf_object *object)
{
	bpf_object__close(object);
}

int rk_tcx_attach(int program, int ifindex, int attach_type)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = FLAG_BEFORE);

	return bpf_link_create(program, ifindex, (enum bpf_attach_type)attach_type, &opts);
}

int rk_tcx_supported(int ifindex)
{
	uint32_t count = 0;

	/* BPF_TCX_INGRESS; kernels that don't know it answer EINVAL. The device's index stands where
	 * other attach types have a descriptor. */
	return bpf_prog_query(ifindex, (enum bpf_attach_type)46, 0, NULL, NULL, &count) != -EINVAL;
}

int rk_link_update(int link, int program)
{
	return bpf_link_update(link, program, NULL);
}

int rk_link_detach(int link)
{
	return bpf_link_detach(link);
}

int rk_link_ifindex(int link)
{
	/* type, id, program id, (padding), then of a tcx link: ifindex, attach type */
	uint32_t info[32] = {};
	uint32_t size = sizeof(info);
	int err = bpf_obj_get_info_by_fd(link, info, &size);

	return err ? err : (int)info[4];
}

int rk_tc_attach(int program, int ifindex, bool egress, uint32_t handle, uint32_t priority)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex,
		    .attach_point = egress ? BPF_TC_EGRESS : BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = handle, .priority = priority,
		    .prog_fd = program, .flags = BPF_TC_F_REPLACE);
	int err = bpf_tc_hook_create(&hook);

	if (err && err != -EEXIST)
		return err;
	return bpf_tc_attach(&hook, &opts);
}

int rk_tc_query(int ifindex, bool egress, uint32_t handle, uint32_t priority)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex,
		    .attach_point = egress ? BPF_TC_EGRESS : BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = handle, .priority = priority);
	int err = bpf_tc_query(&hook, &opts);

	return err ? err : (int)opts.prog_id;
}

int rk_tc_detach(int ifindex, bool egress, uint32_t handle, uint32_t priority)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex,
		    .attach_point = egress ? BPF_TC_EGRESS : BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = handle, .priority = priority);

	return bpf_tc_detach(&hook, &opts);
}

int rk_test_run(int program, const void *packet, uint32_t size, uint32_t endpoint, uint32_t flags,
		uint32_t repeat, uint32_t *reason, uint32_t *nanoseconds)
{
	struct __sk_buff in = { .cb = { endpoint, flags } }, out = {};
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = size,
		    .ctx_in = &in, .ctx_size_in = sizeof(in), .ctx_out = &out,
		    .ctx_size_out = sizeof(out), .repeat = (int)repeat);
	int err = bpf_prog_test_run_opts(program, &opts);

	if (err)
		return err;
	*reason = out.cb[2];
	*nanoseconds = opts.duration;
	return (int)opts.retval == -1 ? 0 : (int)opts.retval;
}

/* Replacing an inner map waits for all running programs before it returns. */
int rk_synchronize(void)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts);
	int inner, outer, err;
	uint32_t zero = 0;

	inner = bpf_map_create(BPF_MAP_TYPE_ARRAY, "rk_inner", 4, 4, 1, NULL);
	if (inner < 0)
		return inner;
	opts.inner_map_fd = inner;
	outer = bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "rk_outer", 4, 4, 1, &opts);
	err = outer < 0 ? outer : bpf_map_update_elem(outer, &zero, &inner, BPF_ANY);
	if (outer >= 0)
		close(outer);
	close(inner);
	return err;
}

struct rk_ring {
	struct ring_buffer *buffer;
	size_t sample;
	char *next;
	size_t left;
	int copied;
};

static int take_sample(void *arg, void *data, size_t size)
{
	struct rk_ring *ring = arg;

	if (size == ring->sample) {
		memcpy(ring->next, data, size);
		ring->next += size;
		ring->left -= 1;
		ring->copied += 1;
	}
	/* The sample is consumed also when this ends the walk. */
	return ring->left ? 0 : -ECANCELED;
}

struct rk_ring *rk_ring_open(int map, size_t sample)
{
	struct rk_ring *ring = calloc(1, sizeof(*ring));

	if (!ring) {
		last_error = ENOMEM;
		return NULL;
	}
	ring->sample = sample;
	ring->buffer = ring_buffer__new(map, take_sample, ring, NULL);
	if (!ring->buffer) {
		last_error = errno;
		free(ring);
		return NULL;
	}
	return ring;
}

int rk_ring_fd(const struct rk_ring *ring)
{
	return ring_buffer__epoll_fd(ring->buffer);
}

int rk_ring_drain(struct rk_ring *ring, void *buffer, size_t samples)
{
	int err;

	if (!samples)
		return 0;
	ring->next = buffer;
	ring->left = samples;
	ring->copied = 0;
	err = ring_buffer__consume(ring->buffer);
	return err < 0 && err != -ECANCELED ? err : ring->copied;
}

void rk_ring_close(struct rk_ring *ring)
{
	ring_buffer__free(ring->buffer);
	free(ring);
}

int rk_membarrier(void)
{
	return syscall(__NR_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) ? -errno : 0;
}

int rk_membarrier_supported(void)
{
	long commands = syscall(__NR_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);

	return commands < 0 ? -errno : !!(commands & MEMBARRIER_CMD_GLOBAL);
}

static void (*log_sink)(int level, const char *text);

static int print_log(enum libbpf_print_level level, const char *format, va_list args)
{
	va_list again;
	char *text;
	int size;

	if (!log_sink)
		return 0;
	va_copy(again, args);
	size = vsnprintf(NULL, 0, format, again);
	va_end(again);
	text = size < 0 ? NULL : malloc((size_t)size + 1);
	if (!text)
		return 0;
	vsnprintf(text, (size_t)size + 1, format, args);
	log_sink((int)level, text);
	free(text);
	return size;
}

void rk_log_to(void (*sink)(int level, const char *text))
{
	log_sink = sink;
	libbpf_set_print(print_log);
}
