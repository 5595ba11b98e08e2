/* From a frame to `struct packet`. Bytes are copied out with bpf_skb_load_bytes: frames with paged
 * data need no special way, and nothing has to be pulled. */
#ifndef PARSE_H
#define PARSE_H

#define MAX_EXTENSIONS 6
#define MAX_INNER_EXTENSIONS 2

/* `frame_end`: the frame's length. `inner`: the packet stands cut off in an ICMP error, its own
 * length says nothing; what there is of it ends with the frame. Each returns 0 or MALFORMED. */
INLINE int parse_ipv4(struct __sk_buff *skb, __u32 at, __u32 frame_end, bool inner,
		      struct packet *p)
{
	struct iphdr ip;
	__u32 header, total, offset;

	if (at + sizeof(ip) > frame_end || bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return REASON_MALFORMED;
	header = ip.ihl * 4;
	total = bpf_ntohs(ip.tot_len);
	if (!total && !inner && skb->gso_size)
		total = frame_end - at;
	if (ip.version != 4 || header < sizeof(ip) || at + header > frame_end || total < header)
		return REASON_MALFORMED;
	if (!inner && at + total > frame_end)
		return REASON_MALFORMED;
	p->family = FAMILY_V4;
	p->source.words[0] = ip.saddr;
	p->destination.words[0] = ip.daddr;
	p->protocol = ip.protocol;
	p->hop_limit = ip.ttl;
	p->l4 = at + header;
	p->end = inner ? frame_end : at + total;
	offset = bpf_ntohs(ip.frag_off);
	p->fragment = offset & 0x1fff ? LATER : offset & 0x2000 ? FIRST : WHOLE;
	p->id = bpf_ntohs(ip.id);
	return 0;
}

INLINE int parse_ipv6(struct __sk_buff *skb, __u32 at, __u32 frame_end, bool inner,
		      struct packet *p)
{
	struct ipv6hdr ip;
	__u8 next, header[8];
	__u32 payload, l4, size, offset;
	int i;

	if (at + sizeof(ip) > frame_end || bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return REASON_MALFORMED;
	payload = bpf_ntohs(ip.payload_len);
	if (!payload && !inner && skb->gso_size)
		payload = frame_end - at - sizeof(ip);
	l4 = at + sizeof(ip);
	if (ip.version != 6 || (!inner && l4 + payload > frame_end))
		return REASON_MALFORMED;
	p->family = FAMILY_V6;
	__builtin_memcpy(&p->source, &ip.saddr, 16);
	__builtin_memcpy(&p->destination, &ip.daddr, 16);
	p->hop_limit = ip.hop_limit;
	p->end = inner ? frame_end : l4 + payload;
	p->fragment = WHOLE;
	next = ip.nexthdr;
	for (i = 0; i < (inner ? MAX_INNER_EXTENSIONS : MAX_EXTENSIONS); i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
		    next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT && next != IPPROTO_AH)
			break;
		if (l4 + sizeof(header) > p->end ||
		    bpf_skb_load_bytes(skb, l4, header, sizeof(header)))
			return REASON_MALFORMED;
		size = 8;
		if (next == IPPROTO_FRAGMENT) {
			if (p->fragment != WHOLE)
				return REASON_MALFORMED;
			offset = header[2] << 8 | header[3];
			p->id = (__u32)header[4] << 24 | header[5] << 16 | header[6] << 8 |
				header[7];
			if (offset & 0xfff8)
				p->fragment = LATER;
			else if (offset & 1)
				p->fragment = FIRST;
		} else if (next == IPPROTO_AH) {
			size = (header[1] + 2) * 4;
		} else {
			if (next == IPPROTO_ROUTING && header[2] == 0)
				return REASON_MALFORMED;
			size = (header[1] + 1) * 8;
		}
		next = header[0];
		l4 += size;
		if (l4 > p->end)
			return REASON_MALFORMED;
		/* What follows a later fragment's header is no header. */
		if (p->fragment == LATER)
			break;
	}
	p->l4 = l4;
	p->protocol = next;
	return 0;
}

/* Ports, flags, ICMP type of a packet that holds them (not of a later fragment). A first fragment
 * has to hold the ports, and of TCP the flags: a SYN that came in its second fragment would pass as
 * a reply (RFC 1858). Returns 0, UNKNOWN_PROTOCOL or MALFORMED. */
INLINE int parse_l4(struct __sk_buff *skb, struct packet *p, bool inner)
{
	__u32 have = p->end - p->l4, need;
	__u8 header[8];

	switch (p->protocol) {
	case PROTOCOL_TCP:
		need = 20;
		break;
	case PROTOCOL_SCTP:
		need = 12;
		break;
	case PROTOCOL_UDP:
		need = 8;
		break;
	case PROTOCOL_ICMP:
		if (p->family != FAMILY_V4)
			return REASON_UNKNOWN_PROTOCOL;
		need = 8;
		break;
	case PROTOCOL_ICMPV6:
		if (p->family != FAMILY_V6)
			return REASON_UNKNOWN_PROTOCOL;
		need = 8;
		break;
	default:
		return REASON_UNKNOWN_PROTOCOL;
	}
	if (inner)
		need = 8; /* all that an ICMP error has to carry */
	else if (p->fragment == FIRST && !is_icmp(p))
		need = p->protocol == PROTOCOL_TCP ? 14 : 4;
	if (have < need)
		return REASON_MALFORMED;
	if (is_icmp(p)) {
		if (bpf_skb_load_bytes(skb, p->l4, header, 8))
			return REASON_MALFORMED;
		p->type = header[0];
		p->code = header[1];
		if (p->fragment == WHOLE &&
		    (p->protocol == PROTOCOL_ICMP ? p->type == 8 || p->type == 0
						  : p->type == 128 || p->type == 129)) {
			__builtin_memcpy(&p->sport, header + 4, 2);
			p->dport = p->sport;
		}
		return 0;
	}
	if (bpf_skb_load_bytes(skb, p->l4, header, 4))
		return REASON_MALFORMED;
	__builtin_memcpy(&p->sport, header, 2);
	__builtin_memcpy(&p->dport, header + 2, 2);
	if (p->protocol == PROTOCOL_TCP && have >= 14 &&
	    bpf_skb_load_bytes(skb, p->l4 + 13, &p->tcp_flags, 1))
		return REASON_MALFORMED;
	return 0;
}

#endif
