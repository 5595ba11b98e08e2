/* tc programs of a pod's host side device: `from_pod` on its ingress judges what the pod sends
 * (direction egress), `to_pod` on its egress what the pod is sent (direction ingress). A packet
 * that passes goes on to the next program; everything that is not known drops.
 *
 * The probe variants run the same code under PROG_TEST_RUN: cb[0] is the endpoint's ifindex, cb[1]
 * whether conntrack, fragments, metrics and events are written; cb[2] becomes the reason. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"
#include "common.h"
#include "maps.h"
#include "parse.h"
#include "conntrack.h"
#include "policy.h"
#include "path.h"

#define TC_VERDICT(reason) ((reason) <= REASON_NEIGHBOUR ? TC_ACT_UNSPEC : TC_ACT_SHOT)

INLINE int probe(struct __sk_buff *skb, __u32 direction)
{
	int reason = handle(skb, skb->cb[0], direction, skb->cb[1] != 0);

	skb->cb[2] = reason;
	return TC_VERDICT(reason);
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	return TC_VERDICT(handle(skb, skb->ifindex, DIRECTION_EGRESS, true));
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	return TC_VERDICT(handle(skb, skb->ifindex, DIRECTION_INGRESS, true));
}

SEC("tc")
int probe_from_pod(struct __sk_buff *skb)
{
	return probe(skb, DIRECTION_EGRESS);
}

SEC("tc")
int probe_to_pod(struct __sk_buff *skb)
{
	return probe(skb, DIRECTION_INGRESS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
