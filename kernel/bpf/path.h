/* The way of one packet through one endpoint's programs, the same code for traffic and probes. */
#ifndef PATH_H
#define PATH_H

#define ARP_SIZE 28
#define NEIGHBOUR_MESSAGE 24 /* ICMPv6 header and target (RFC 4861, 4.3 and 4.4) */
#define NEIGHBOUR_OPTION 8   /* one Ethernet address */

INLINE int judge_arp(struct __sk_buff *skb, const struct endpoint *ep, __u8 direction)
{
	/* htype, ptype, hlen, plen, oper, sender hardware address, sender protocol address */
	static const __u8 ethernet_ipv4[6] = { 0, 1, 8, 0, 6, 4 };
	__u8 arp[ARP_SIZE];
	__u32 sender;
	int i;

	if (skb->len < ETHERNET_HEADER + ARP_SIZE ||
	    bpf_skb_load_bytes(skb, ETHERNET_HEADER, arp, ARP_SIZE))
		return REASON_MALFORMED;
	if (direction == DIRECTION_INGRESS)
		return REASON_NEIGHBOUR;
#pragma unroll
	for (i = 0; i < 6; i++)
		if (arp[i] != ethernet_ipv4[i])
			return REASON_MALFORMED;
	__builtin_memcpy(&sender, arp + 14, 4);
	return !sender || sender == ep->ipv4 ? REASON_NEIGHBOUR : REASON_BAD_SOURCE;
}

/* Never forwarded: link-local, and groups of at most the link's scope. */
INLINE bool on_link(const union address *a)
{
	return link_local(a) || (a->bytes[0] == 0xff && (a->bytes[1] & 0x0f) <= 2);
}

/* A message to an address that may be beyond the link, where it could carry anything to anybody:
 * as much as resolution needs, about the address that it goes to (or its sender's own), to whom
 * the cluster knows. REASON_NONE: by policy, like any packet. */
INLINE int judge_distant(const struct packet *p, __u32 half, __u8 type,
			 const union address *target)
{
	__u32 group, peer;

	if (type == 133 || p->end - p->l4 > NEIGHBOUR_MESSAGE + NEIGHBOUR_OPTION)
		return REASON_NONE;
	if (type == 135 && !same_address(target, &p->destination))
		return REASON_NONE;
	peer = identity_of(p->destination.bytes, FAMILY_V6, half, &group);
	return peer == IDENTITY_UNKNOWN || peer == IDENTITY_WORLD_V6 ? REASON_NONE
								     : REASON_NEIGHBOUR;
}

/* Neighbour discovery and multicast listener reports; REASON_NONE: this is none of them. */
SUBPROGRAM int judge_neighbour(struct __sk_buff *skb, const struct context *c)
{
	const struct endpoint *ep = &c->endpoint;
	const struct packet *p = &c->packet;
	union address target = {};
	__u8 icmp[2];

	if (p->end - p->l4 < 8 || bpf_skb_load_bytes(skb, p->l4, icmp, 2))
		return REASON_NONE;
	if (icmp[0] == 130 || icmp[0] == 131 || icmp[0] == 132 || icmp[0] == 143) {
		if (p->hop_limit == 1 && p->destination.bytes[0] == 0xff &&
		    p->destination.bytes[1] == 0x02 &&
		    (no_address(&p->source) || link_local(&p->source)))
			return REASON_NEIGHBOUR;
		return REASON_NONE;
	}
	if (icmp[0] < 133 || icmp[0] > 137 || icmp[1] || p->hop_limit != 255)
		return REASON_NONE;
	if (c->direction == DIRECTION_INGRESS)
		return REASON_NEIGHBOUR;
	if (icmp[0] == 134 || icmp[0] == 137)
		return REASON_MALFORMED; /* a pod is no router */
	if (!no_address(&p->source) && !link_local(&p->source) &&
	    !same_address(&p->source, &ep->ipv6))
		return REASON_BAD_SOURCE;
	if (p->end - p->l4 >= NEIGHBOUR_MESSAGE &&
	    bpf_skb_load_bytes(skb, p->l4 + 8, &target, 16))
		return REASON_MALFORMED;
	if (icmp[0] == 136) {
		if (p->end - p->l4 < NEIGHBOUR_MESSAGE)
			return REASON_MALFORMED;
		if (!link_local(&target) &&
		    (no_address(&target) || !same_address(&target, &ep->ipv6)))
			return REASON_BAD_SOURCE;
	}
	if (!on_link(&p->destination))
		return judge_distant(p, c->half, icmp[0], &target);
	return REASON_NEIGHBOUR;
}

INLINE bool owns(const struct endpoint *ep, __u8 family, const union address *address)
{
	if (family == FAMILY_V4)
		return ep->ipv4 && ep->ipv4 == address->words[0];
	return !no_address(&ep->ipv6) && same_address(&ep->ipv6, address);
}

INLINE bool icmp_error(const struct packet *p)
{
	if (p->fragment == LATER)
		return false;
	if (p->protocol == PROTOCOL_ICMP)
		return p->type == 3 || p->type == 11 || p->type == 12;
	return p->protocol == PROTOCOL_ICMPV6 && p->type >= 1 && p->type <= 4;
}

/* An ICMP error passes if it is about a packet that went through here the other way: one that
 * opened (or followed up) a flow of the other direction, or the reply of a flow of this one; and if
 * it goes to who sent that packet, or a pod could send errors about one flow to everybody. */
SUBPROGRAM int judge_error(struct __sk_buff *skb, const struct context *c)
{
	const struct packet *p = &c->packet;
	__u64 now = bpf_ktime_get_ns();
	struct packet inner = {};
	struct conntrack_key flow;
	struct ruling ruling;
	int failed;

	failed = p->family == FAMILY_V4
			 ? parse_ipv4(skb, p->l4 + 8, p->end, true, &inner)
			 : parse_ipv6(skb, p->l4 + 8, p->end, true, &inner);
	if (failed || inner.fragment == LATER || parse_l4(skb, &inner, true) ||
	    !same_address(&inner.source, &p->destination))
		return REASON_NO_RULE;
	flow_key(&flow, c->endpoint.id, OTHER(c->direction), &inner, true);
	if (find_flow(&flow, now) &&
	    judge_flow(c->endpoint.group, c->half, &flow, &ruling) == REASON_ALLOWED)
		return REASON_RELATED;
	flow_key(&flow, c->endpoint.id, c->direction, &inner, false);
	if (find_flow(&flow, now) &&
	    judge_flow(c->endpoint.group, c->half, &flow, &ruling) == REASON_ALLOWED)
		return REASON_RELATED;
	return REASON_NO_RULE;
}

INLINE bool may_reply(const struct packet *p)
{
	if (p->protocol == PROTOCOL_TCP)
		return (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN;
	if (p->fragment == LATER)
		return true;
	if (p->protocol == PROTOCOL_ICMP)
		return p->type == 0;
	if (p->protocol == PROTOCOL_ICMPV6)
		return p->type == 129;
	return true;
}

INLINE bool may_open(const struct packet *p)
{
	if (p->protocol == PROTOCOL_ICMP)
		return p->fragment != LATER && p->type == 8;
	if (p->protocol == PROTOCOL_ICMPV6)
		return p->fragment != LATER && p->type == 128;
	return true;
}

SUBPROGRAM int judge_transport(struct context *c)
{
	const struct packet *p = &c->packet;
	__u64 now = bpf_ktime_get_ns();
	__u32 flags = p->tcp_flags & TCP_RST ? FLOW_RST : 0;
	struct conntrack_value *value;
	struct conntrack_key flow;
	int reason;

	if (may_reply(p)) {
		flow_key(&flow, c->endpoint.id, OTHER(c->direction), p, false);
		value = find_flow(&flow, now);
		if (value && judge_flow(c->endpoint.group, c->half, &flow, &c->ruling) ==
				     REASON_ALLOWED) {
			if (p->tcp_flags & TCP_FIN)
				flags |= FLOW_FIN_REPLY;
			if (c->effects)
				touch_flow(&flow, value, now, flags | FLOW_REPLIED);
			return REASON_REPLY;
		}
	}
	flow_key(&flow, c->endpoint.id, c->direction, p, true);
	reason = judge_flow(c->endpoint.group, c->half, &flow, &c->ruling);
	if (reason != REASON_ALLOWED || !c->effects || !may_open(p))
		return reason;
	value = find_flow(&flow, now);
	if (value && flow_closing(value->flags) && p->protocol == PROTOCOL_TCP &&
	    (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		value = NULL;
	c->ruling.opened = !value;
	if (p->tcp_flags & TCP_FIN)
		flags |= FLOW_FIN_FORWARD;
	touch_flow(&flow, value, now, flags);
	return reason;
}

/* The fragments' key of a fragment, its sides as they stand in the packet. */
INLINE void fragment_key(struct fragment_key *key, const struct context *c)
{
	key->endpoint = c->endpoint.id | (c->direction == DIRECTION_EGRESS ? 1U << 31 : 0);
	key->id = c->packet.id;
	__builtin_memcpy(key->source, &c->packet.source, 16);
	__builtin_memcpy(key->destination, &c->packet.destination, 16);
}

/* Ports of a fragment that is not the first; 0 or FRAGMENT. */
SUBPROGRAM int recall_fragment(struct context *c)
{
	struct fragment_value *found;
	struct fragment_key key;

	fragment_key(&key, c);
	found = bpf_map_lookup_elem(&fragments, &key);
	if (!found || found->protocol != c->packet.protocol)
		return REASON_FRAGMENT;
	c->packet.sport = found->sport;
	c->packet.dport = found->dport;
	return 0;
}

SUBPROGRAM int remember_fragment(const struct context *c)
{
	struct fragment_value ports = {};
	struct fragment_key key;

	fragment_key(&key, c);
	ports.sport = c->packet.sport;
	ports.dport = c->packet.dport;
	ports.protocol = c->packet.protocol;
	return bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
}

SUBPROGRAM int parse(struct __sk_buff *skb, struct packet *p, __be16 ethertype)
{
	if (ethertype == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, ETHERNET_HEADER, skb->len, false, p);
	if (ethertype == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, ETHERNET_HEADER, skb->len, false, p);
	return REASON_UNKNOWN_PROTOCOL;
}

INLINE int judge(struct __sk_buff *skb, __u32 ifindex, struct context *c)
{
	struct packet *p = &c->packet;
	struct cut_value *word;
	__be16 ethertype;
	__u32 zero = 0;
	int reason;

	/* Read once. Stores before the flip are visible to who sees it: on machines whose loads may
	 * pass each other, the writer waits for all running programs before it flips. */
	word = bpf_map_lookup_elem(&cut, &zero);
	if (!word)
		return REASON_NO_ENDPOINT;
	c->half = *(volatile __u32 *)&word->active & 1;
	barrier();
	if (!find_endpoint(ifindex, c->half, &c->endpoint)) {
		c->endpoint.id = 0;
		return REASON_NO_ENDPOINT;
	}
	if (c->endpoint.flags & ENDPOINT_CLOSED)
		return REASON_CLOSED;
	if (skb->len < ETHERNET_HEADER || bpf_skb_load_bytes(skb, 12, &ethertype, 2))
		return REASON_MALFORMED;
	if (skb->vlan_present)
		return REASON_UNKNOWN_PROTOCOL;
	if (ethertype == bpf_htons(ETH_P_ARP))
		return judge_arp(skb, &c->endpoint, c->direction);
	reason = parse(skb, p, ethertype);
	if (reason)
		return reason;
	if (p->protocol == PROTOCOL_ICMPV6 && p->family == FAMILY_V6 && p->fragment == WHOLE) {
		reason = judge_neighbour(skb, c);
		if (reason != REASON_NONE)
			return reason;
	}
	if (!owns(&c->endpoint, p->family,
		  c->direction == DIRECTION_EGRESS ? &p->source : &p->destination))
		return REASON_BAD_SOURCE;
	reason = p->fragment == LATER ? recall_fragment(c) : parse_l4(skb, p, false);
	if (reason)
		return reason;
	reason = icmp_error(p) ? judge_error(skb, c) : judge_transport(c);
	if (p->fragment == FIRST && c->effects && reason <= REASON_NEIGHBOUR)
		remember_fragment(c);
	return reason;
}

INLINE void report(struct __sk_buff *skb, __u32 ifindex, int reason, const struct context *c)
{
	const struct packet *p = &c->packet;
	struct metric_value *metric;
	struct event *event;
	__u32 index = reason * 2 + c->direction - 1;

	metric = bpf_map_lookup_elem(&metrics, &index);
	if (metric) {
		metric->packets += 1;
		metric->bytes += skb->len;
	}
	if (reason <= REASON_NEIGHBOUR && !c->ruling.opened)
		return;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return; /* full: not sampled */
	event->time = bpf_ktime_get_ns();
	event->endpoint = c->endpoint.id;
	event->ifindex = ifindex;
	event->peer = c->ruling.peer;
	event->cookie = c->ruling.cookie;
	event->direction = c->direction;
	event->protocol = p->protocol;
	event->family = p->family;
	event->reason = reason;
	event->sport = p->sport;
	event->dport = p->dport;
	__builtin_memcpy(event->source, &p->source, 16);
	__builtin_memcpy(event->destination, &p->destination, 16);
	bpf_ringbuf_submit(event, 0);
}

INLINE int handle(struct __sk_buff *skb, __u32 ifindex, __u32 direction, bool effects)
{
	struct context c = { .direction = direction, .effects = effects };
	int reason = judge(skb, ifindex, &c);

	if (effects)
		report(skb, ifindex, reason, &c);
	return reason;
}

#endif
