/* The maps. Sizes here are placeholders: the loader makes (or adopts) each map by the layout's
 * specification and hands its descriptor in before the programs are loaded. */
#ifndef MAPS_H
#define MAPS_H

#define ANY_MAP(map, map_type, key, value, entries, flags)  \
	struct {                                            \
		__uint(type, map_type);                     \
		__uint(key_size, key);                      \
		__uint(value_size, value);                  \
		__uint(max_entries, entries);               \
		__uint(map_flags, flags);                   \
	} map SEC(".maps")

ANY_MAP(cut, BPF_MAP_TYPE_ARRAY, 4, sizeof(struct cut_value), 1, BPF_F_MMAPABLE);
ANY_MAP(addresses, BPF_MAP_TYPE_LPM_TRIE, sizeof(struct address_key),
	sizeof(struct address_value), 1, BPF_F_NO_PREALLOC);
ANY_MAP(endpoints, BPF_MAP_TYPE_HASH, 4, sizeof(struct endpoint_value), 1, BPF_F_NO_PREALLOC);
ANY_MAP(groups, BPF_MAP_TYPE_ARRAY, 4, sizeof(struct group_value), 1, BPF_F_MMAPABLE);
ANY_MAP(policies, BPF_MAP_TYPE_LPM_TRIE, sizeof(struct policy_key),
	sizeof(struct policy_value), 1, BPF_F_NO_PREALLOC);
ANY_MAP(conntrack, BPF_MAP_TYPE_LRU_HASH, sizeof(struct conntrack_key),
	sizeof(struct conntrack_value), 1, 0);
ANY_MAP(fragments, BPF_MAP_TYPE_LRU_HASH, sizeof(struct fragment_key),
	sizeof(struct fragment_value), 1, 0);
ANY_MAP(metrics, BPF_MAP_TYPE_PERCPU_ARRAY, 4, sizeof(struct metric_value), 2 * REASONS, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

#endif
