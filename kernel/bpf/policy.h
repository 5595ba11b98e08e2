/* Who the peer is, and what the policy of one half says about it. */
#ifndef POLICY_H
#define POLICY_H

#define VERDICT_ALLOW 1
#define VERDICT_DENY 2

struct endpoint {
	__u32 id;
	__u32 flags;
	__u32 group;
	__u32 ipv4;
	union address ipv6;
};

struct ruling {
	__u32 peer;
	__u32 cookie;
	__u32 opened; /* a new flow */
};

/* One packet and what it is judged by: the half in force, and this half of its endpoint. */
struct context {
	struct packet packet;
	struct endpoint endpoint;
	struct ruling ruling;
	__u32 half;
	__u32 direction;
	__u32 effects;
};

INLINE bool read_endpoint(__u32 ifindex, __u32 half, struct endpoint *ep)
{
	struct endpoint_value *v = bpf_map_lookup_elem(&endpoints, &ifindex);

	if (!v)
		return false;
	ep->id = v->id;
	ep->flags = v->flags;
	ep->group = v->half[half & 1].group;
	__builtin_memcpy(&ep->ipv4, v->half[half & 1].ipv4, 4);
	__builtin_memcpy(&ep->ipv6, v->half[half & 1].ipv6, 16);
	return true;
}

/* Since 6.1 a hash element that was replaced may be given to another key while a reader still
 * looks at it. So the value is read twice through two look-ups, and taken when both agree: the
 * writer replaces the element of a key at most once in the time of one packet (it waits for a grace
 * period before it writes the same key again), so a value that two look-ups agree on is the key's
 * own. The third attempt sees at the latest the replacing element on both sides. */
INLINE bool find_endpoint(__u32 ifindex, __u32 half, struct endpoint *ep)
{
	struct endpoint again;
	int i;

	if (!read_endpoint(ifindex, half, ep))
		return false;
	for (i = 0; i < 3; i++) {
		barrier();
		if (!read_endpoint(ifindex, half, &again))
			return false;
		if (again.id == ep->id && again.flags == ep->flags && again.group == ep->group &&
		    again.ipv4 == ep->ipv4 && same_address(&again.ipv6, &ep->ipv6))
			return true;
		*ep = again;
	}
	return false;
}

/* Identity index of an address; `group` says which group it is bound to. */
INLINE __u32 identity_of(const __u8 *address, __u8 family, __u32 half, __u32 *group)
{
	struct address_key key = { .family = family };
	struct address_value *bound;
	struct group_value *value;

	key.prefixlen = ADDRESS_STATIC_BITS + (family == FAMILY_V4 ? 32 : 128);
	__builtin_memcpy(key.address, address, 16);
	bound = bpf_map_lookup_elem(&addresses, &key);
	*group = bound ? bound->group[half & 1] : GROUP_NONE;
	if (*group == GROUP_NONE || *group == GROUP_SERVICE)
		return IDENTITY_UNKNOWN;
	value = bpf_map_lookup_elem(&groups, group);
	if (!value || !value->half[half & 1].identity)
		return IDENTITY_UNKNOWN;
	return value->half[half & 1].identity;
}

/* What policy says now to a flow, named by its conntrack key (forward tuple, direction seen from
 * the pod): ALLOWED, DENIED, NO_RULE, CLOSED or SERVICE. */
SUBPROGRAM int judge_flow(__u32 group, __u32 half, const struct conntrack_key *flow,
			  struct ruling *ruling)
{
	struct policy_key key = {};
	struct policy_value *own, *any;
	struct group_value *value;
	__u32 rule_set;
	bool allow = false;

	ruling->peer = 0;
	ruling->cookie = 0;
	value = bpf_map_lookup_elem(&groups, &group);
	if (!value)
		return REASON_CLOSED;
	rule_set = flow->direction == DIRECTION_INGRESS ? value->half[half & 1].ingress
							: value->half[half & 1].egress;
	if (rule_set == RULE_SET_CLOSED)
		return REASON_CLOSED;
	ruling->peer = identity_of(
		flow->direction == DIRECTION_INGRESS ? flow->source : flow->destination,
		flow->family, half, &group);
	if (group == GROUP_SERVICE && flow->direction == DIRECTION_EGRESS) {
		ruling->peer = IDENTITY_SERVICE;
		return REASON_SERVICE;
	}
	key.prefixlen = POLICY_FULL_BITS;
	key.rule_set = rule_set;
	key.peer = ruling->peer;
	key.direction = flow->direction;
	key.protocol = flow->protocol;
	if (flow->protocol != PROTOCOL_ICMP && flow->protocol != PROTOCOL_ICMPV6)
		key.port = flow->dport;
	own = bpf_map_lookup_elem(&policies, &key);
	key.peer = IDENTITY_ANY;
	any = bpf_map_lookup_elem(&policies, &key);
	if (own && own->verdict == VERDICT_DENY) {
		ruling->cookie = own->cookie;
		return REASON_DENIED;
	}
	if (any && any->verdict == VERDICT_DENY) {
		ruling->cookie = any->cookie;
		return REASON_DENIED;
	}
	if (any && any->verdict == VERDICT_ALLOW) {
		ruling->cookie = any->cookie;
		allow = true;
	}
	if (own && own->verdict == VERDICT_ALLOW) {
		ruling->cookie = own->cookie;
		allow = true;
	}
	return allow ? REASON_ALLOWED : REASON_NO_RULE;
}

#endif
