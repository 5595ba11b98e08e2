/* Words that every part of the packet path uses. */
#ifndef COMMON_H
#define COMMON_H

#define INLINE static __always_inline
#define SUBPROGRAM static __attribute__((noinline)) /* has a stack of its own */
#define REASON_NONE 255 /* not decided yet */

#define DIRECTION_INGRESS 1
#define DIRECTION_EGRESS 2
#define OTHER(direction) ((__u8)(3 - (direction)))

#define ETHERNET_HEADER 14
#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_SCTP 132

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

union address {
	__u8 bytes[16];
	__u32 words[4];
};

enum fragment { WHOLE, FIRST, LATER };

/* A parsed packet. IPv4 addresses stand in the first word, the rest zero. */
struct packet {
	union address source;
	union address destination;
	__u32 l4;  /* offset of the transport header in the frame */
	__u32 end; /* offset of the first byte behind the IP packet */
	__u32 id;  /* of a fragment */
	__be16 sport; /* ICMP echo: both are the echo id */
	__be16 dport;
	__u8 family;
	__u8 protocol;
	__u8 fragment;
	__u8 hop_limit;
	__u8 type; /* ICMP */
	__u8 code;
	__u8 tcp_flags;
	__u8 reserved;
};

INLINE bool same_address(const union address *a, const union address *b)
{
	return !((a->words[0] ^ b->words[0]) | (a->words[1] ^ b->words[1]) |
		 (a->words[2] ^ b->words[2]) | (a->words[3] ^ b->words[3]));
}

INLINE bool no_address(const union address *a)
{
	return !(a->words[0] | a->words[1] | a->words[2] | a->words[3]);
}

INLINE bool link_local(const union address *a)
{
	return a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80;
}

INLINE bool is_icmp(const struct packet *p)
{
	return p->protocol == PROTOCOL_ICMP || p->protocol == PROTOCOL_ICMPV6;
}

#endif
