/* Thin C over libbpf and three system calls, for the cffi extension reconciler.datapath._libbpf.
 * Everything with an options struct, an attribute of the kernel or an atomic is here; no policy.
 * Unless said otherwise a function returns a value >= 0, or -errno. Descriptors are close-on-exec. */
#ifndef SHIM_H
#define SHIM_H

#include <stdint.h>
#include <stdbool.h>
#include <stddef.h>

struct rk_map_info {
	uint32_t type, id, key_size, value_size, max_entries, flags;
};

struct rk_program;
struct rk_ring;

/* Maps */
int rk_map_create(int type, const char *name, uint32_t key_size, uint32_t value_size,
		  uint32_t max_entries, uint32_t flags);
int rk_map_info(int fd, struct rk_map_info *info);
int rk_map_lookup(int fd, const void *key, void *value);
int rk_map_update(int fd, const void *key, const void *value);
int rk_map_delete(int fd, const void *key);
int rk_map_next_key(int fd, const void *key, void *next); /* key NULL: the first */
/* count: how many are asked; holds how many were done afterwards, also on an error */
int rk_map_update_batch(int fd, const void *keys, const void *values, uint32_t *count);
int rk_map_delete_batch(int fd, const void *keys, uint32_t *count);
/* in: NULL at first, then what was `out`; -ENOENT: that was all (count is valid) */
int rk_map_lookup_batch(int fd, void *in, void *out, void *keys, void *values, uint32_t *count);
int rk_possible_cpus(void);
void *rk_map_mmap(int fd, size_t size); /* NULL: see rk_errno */
int rk_munmap(void *address, size_t size);
int rk_errno(void);
void rk_store_release(uint32_t *address, uint32_t value);
uint32_t rk_load_acquire(const uint32_t *address);

/* Pins and mounts */
int rk_pin(int fd, const char *path);
int rk_get(const char *path);
int rk_is_bpffs(const char *path); /* 1, 0, -errno */
int rk_mount_bpffs(const char *path);

/* Object: opened from a file, maps replaced by ours, loaded. */
struct bpf_object;
struct bpf_object *rk_open(const char *path); /* NULL: see rk_errno */
int rk_use_map(struct bpf_object *object, const char *name, int fd);
int rk_skip_program(struct bpf_object *object, const char *name); /* don't load it */
int rk_load(struct bpf_object *object);
int rk_program_fd(struct bpf_object *object, const char *name);
void rk_close_object(struct bpf_object *object);

/* Attachment. tcx: attach type 46 ingress, 47 egress; first in the list of the hook. */
int rk_tcx_attach(int program, int ifindex, int attach_type);
int rk_tcx_supported(int ifindex); /* 1 or 0 */
int rk_link_update(int link, int program);
int rk_link_detach(int link); /* at once; the end of a link's last descriptor or pin is not */
int rk_link_ifindex(int link); /* 0: its device is gone */
int rk_tc_attach(int program, int ifindex, bool egress, uint32_t handle, uint32_t priority);
/* >= 0: id of the program that is there; -ENOENT: none */
int rk_tc_query(int ifindex, bool egress, uint32_t handle, uint32_t priority);
int rk_tc_detach(int ifindex, bool egress, uint32_t handle, uint32_t priority);

/* PROG_TEST_RUN: endpoint and flags go in as cb[0], cb[1]; cb[2] and the mean duration come out. */
int rk_test_run(int program, const void *packet, uint32_t size, uint32_t endpoint, uint32_t flags,
		uint32_t repeat, uint32_t *reason, uint32_t *nanoseconds);

/* Ring buffer: samples of one size, copied back to back. */
struct rk_ring *rk_ring_open(int map, size_t sample); /* NULL: see rk_errno */
int rk_ring_fd(const struct rk_ring *ring);
int rk_ring_drain(struct rk_ring *ring, void *buffer, size_t samples); /* samples copied */
void rk_ring_close(struct rk_ring *ring);

/* Waits until every program that runs now has ended, on every CPU. */
int rk_membarrier(void);
int rk_membarrier_supported(void);
int rk_synchronize(void); /* the same by way of a map of maps, where membarrier is switched off */

/* libbpf's log: level 0 warning, 1 information, 2 debug. */
void rk_log_to(void (*sink)(int level, const char *text));

#endif
