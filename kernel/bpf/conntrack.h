/* Flows, by the tuple of the packet that opened them. Elements of an LRU map may be recycled while
 * a program looks at them. What can come of it is harmless by construction: a flow passes only if
 * policy allows it now, whatever conntrack says, and in place only `last_seen` is written (of a
 * flow that is live just now); flags are written with the whole entry under its key. */
#ifndef CONNTRACK_H
#define CONNTRACK_H

#define FLOW_REPLIED 1
#define FLOW_FIN_FORWARD 2
#define FLOW_FIN_REPLY 4
#define FLOW_RST 8

#define SECOND 1000000000ULL
#define TIMEOUT_TCP_OPENING (60 * SECOND)
#define TIMEOUT_ESTABLISHED (21600 * SECOND)
#define TIMEOUT_TCP_CLOSING (10 * SECOND)
#define TIMEOUT_OPENING (30 * SECOND)
#define TIMEOUT_UDP_REPLIED (120 * SECOND)
#define REFRESH_INTERVAL (1 * SECOND) /* a flow's entry is written this often at most */

INLINE bool flow_closing(__u32 flags)
{
	return flags & FLOW_RST ||
	       (flags & (FLOW_FIN_FORWARD | FLOW_FIN_REPLY)) ==
		       (FLOW_FIN_FORWARD | FLOW_FIN_REPLY);
}

INLINE __u64 flow_timeout(__u8 protocol, __u32 flags)
{
	switch (protocol) {
	case PROTOCOL_TCP:
		if (flow_closing(flags))
			return TIMEOUT_TCP_CLOSING;
		return flags & FLOW_REPLIED ? TIMEOUT_ESTABLISHED : TIMEOUT_TCP_OPENING;
	case PROTOCOL_SCTP:
		return flags & FLOW_REPLIED ? TIMEOUT_ESTABLISHED : TIMEOUT_OPENING;
	case PROTOCOL_UDP:
		return flags & FLOW_REPLIED ? TIMEOUT_UDP_REPLIED : TIMEOUT_OPENING;
	default:
		return TIMEOUT_OPENING;
	}
}

/* The flow that a packet opens (`forward`), or the one that it would be a reply of. */
INLINE void flow_key(struct conntrack_key *key, __u32 endpoint, __u8 direction,
		     const struct packet *p, bool forward)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->endpoint = endpoint;
	key->direction = direction;
	key->protocol = p->protocol;
	key->sport = forward ? p->sport : p->dport;
	key->dport = forward ? p->dport : p->sport;
	key->family = p->family;
	__builtin_memcpy(key->source, forward ? &p->source : &p->destination, 16);
	__builtin_memcpy(key->destination, forward ? &p->destination : &p->source, 16);
}

/* The flow's entry if it is not expired. `now` may be behind what another CPU wrote. */
INLINE struct conntrack_value *find_flow(const struct conntrack_key *key, __u64 now)
{
	struct conntrack_value *value = bpf_map_lookup_elem(&conntrack, key);
	__s64 age;

	if (!value)
		return NULL;
	age = (__s64)(now - value->last_seen);
	return age > 0 && (__u64)age > flow_timeout(key->protocol, value->flags) ? NULL : value;
}

/* Writes what a packet changes in a flow; `value` NULL begins it anew. */
INLINE void touch_flow(const struct conntrack_key *key, struct conntrack_value *value, __u64 now,
		       __u32 flags)
{
	struct conntrack_value fresh = { .last_seen = now, .flags = flags };

	if (value && (value->flags & flags) == flags) {
		if ((__s64)(now - value->last_seen) > (__s64)REFRESH_INTERVAL)
			value->last_seen = now;
		return;
	}
	if (value)
		fresh.flags |= value->flags;
	bpf_map_update_elem(&conntrack, key, &fresh, BPF_ANY);
}

#endif
