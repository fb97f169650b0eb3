//go:build ignore

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Service addresses, resolved where a program names them: in connect(2) and
 * sendmsg(2). What leaves the socket is addressed to a backend already, so no
 * packet is rewritten and no connection is tracked. The answers to
 * getpeername(2) and recvmsg(2) show the service address again.
 *
 * All addresses and ports are in network byte order, here and in the maps.
 */
#include "headers/kernel.h"

#define TCP 6
#define UDP 17
#define MPTCP 262 /* as the application sees it, a TCP socket */

#define ALLOW 1
#define DENY 0
#define ECONNREFUSED 111

struct svc_key {
	__u32 ip;
	__u16 port;
	__u8 proto;
	__u8 pad;
};

/*
 * A hash element is reused as soon as it is deleted, perhaps under a reader.
 * So the value repeats its key, and what counts is one word, written after it:
 * a reader that sees the word of another service sees its key as well.
 */
struct svc {
	struct svc_key key;
	__u64 state; /* id << 40 | gen << 16 | slots */
};

#define SVC_SLOTS(state) ((state) & 0xffff)
#define SVC_GEN(state) (((state) >> 16) & 0xffffff)
#define SVC_ID(state) ((state) >> 40)

/*
 * Slots are written under a generation that no svc names yet, and deleted at
 * least a second after the last svc named it.
 */
struct slot_key {
	__u32 svc;
	__u32 gen;
	__u32 slot;
};

struct address {
	__u32 ip;
	__u16 port;
	__u16 pad;
};

struct backend_key {
	__u32 svc;
	struct address addr;
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_UINT(max_entries, 1 << 16);
	MAP_UINT(pinning, PIN_BY_NAME);
	MAP_TYPE(key, struct svc_key);
	MAP_TYPE(value, struct svc);
} services SEC(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_UINT(max_entries, 1 << 19);
	MAP_UINT(pinning, PIN_BY_NAME);
	MAP_TYPE(key, struct slot_key);
	MAP_TYPE(value, struct address);
} slots SEC(".maps");

/* Which backends a service has now, for sockets that remember one. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_UINT(max_entries, 1 << 19);
	MAP_UINT(pinning, PIN_BY_NAME);
	MAP_TYPE(key, struct backend_key);
	MAP_TYPE(value, __u32);
} backends SEC(".maps");

/* What one socket was translated to. It goes with the socket. */
struct flow {
	__u32 vip;
	__u32 ip;
	__u16 vport; /* 0: free */
	__u16 port;
	__u32 svc;
	__u32 gen;
};

#define FLOWS 4 /* destinations that an unconnected socket remembers; resolv.conf has at most 3 */

struct flows {
	struct flow flow[FLOWS];
	__u32 next; /* to be replaced */
	__u32 last; /* used to send: two services may have led to one backend */
};

/* Connected sockets: TCP, and UDP after connect(2). */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_SK_STORAGE);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_UINT(pinning, PIN_BY_NAME);
	MAP_TYPE(key, int);
	MAP_TYPE(value, struct flow);
} connected SEC(".maps");

/* Unconnected UDP sockets. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_SK_STORAGE);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_UINT(pinning, PIN_BY_NAME);
	MAP_TYPE(key, int);
	MAP_TYPE(value, struct flows);
} unconnected SEC(".maps");

enum counter {
	PICKED,     /* a backend was chosen */
	KEPT,       /* a datagram went where its socket's last one went */
	EMPTY,      /* refused: the service has no backend */
	UNKNOWN,    /* refused: in the service range, but no service */
	INCOMPLETE, /* refused: a slot was missing, which must not happen */
	COUNTERS,
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, COUNTERS);
	MAP_UINT(pinning, PIN_BY_NAME);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u64);
} counters SEC(".maps");

/* The range that service addresses are from; a mask of 0: not known. */
volatile const __u32 range_net;
volatile const __u32 range_mask;

/*
 * Which sockets the program is for. On the node's own cgroup it is for all or,
 * where host services are on, for those of other network namespaces than the
 * node's; on the root cgroup it is for those of the node's. So each socket has
 * one program, and containers on the machine that are nobody's pods have none.
 */
enum scope { ALL, OTHERS, OWN };
volatile const __u32 scope;
volatile const __u64 own_netns; /* cookie of the node's network namespace */

INLINE int concerned(struct bpf_sock_addr *ctx)
{
	switch (scope) {
	case OTHERS:
		return bpf_get_netns_cookie(ctx) != own_netns;
	case OWN:
		return bpf_get_netns_cookie(ctx) == own_netns;
	}
	return 1;
}

INLINE void count(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &what);

	if (n)
		(*n)++;
}

INLINE int refuse(__u32 why)
{
	count(why);
	bpf_set_retval(-ECONNREFUSED);
	return DENY;
}

INLINE int protocol(struct bpf_sock_addr *ctx)
{
	switch (ctx->protocol) {
	case TCP:
	case MPTCP:
		return TCP;
	case UDP:
		return UDP;
	}
	return 0;
}

/* What to do with a destination. */
enum verdict { PASS, REFUSE_UNKNOWN, SERVICE };

/* Reads the state of the service at dst, which is only set for SERVICE. */
INLINE enum verdict find(int proto, struct address *dst, __u64 *state)
{
	struct svc_key key = { .ip = dst->ip, .port = dst->port, .proto = proto };
	struct svc *svc;
	int i;

#pragma unroll
	for (i = 0; i < 2; i++) {
		svc = bpf_map_lookup_elem(&services, &key);
		if (!svc)
			break;
		*state = READ_ONCE(svc->state);
		if (READ_ONCE(svc->key.ip) == key.ip && READ_ONCE(svc->key.port) == key.port &&
		    READ_ONCE(svc->key.proto) == key.proto)
			return SERVICE;
	}
	if (range_mask && (dst->ip & range_mask) == range_net)
		return REFUSE_UNKNOWN;
	return PASS;
}

/* Chooses one of the service's backends at random. */
INLINE struct address *pick(__u64 state)
{
	struct slot_key key = {
		.svc = SVC_ID(state),
		.gen = SVC_GEN(state),
		.slot = bpf_get_prandom_u32() % (__u32)SVC_SLOTS(state),
	};

	return bpf_map_lookup_elem(&slots, &key);
}

/* connect(2) to dst: ALLOW, with dst replaced if it is a service, or DENY. */
INLINE int on_connect(struct bpf_sock_addr *ctx, int proto, struct address *dst)
{
	struct address *backend;
	struct flow *flow;
	__u64 state = 0;

	switch (find(proto, dst, &state)) {
	case PASS:
		/* A socket that was connected to a service before is now not. */
		flow = bpf_sk_storage_get(&connected, ctx->sk, 0, 0);
		if (flow)
			flow->vport = 0;
		return ALLOW;
	case REFUSE_UNKNOWN:
		return refuse(UNKNOWN);
	case SERVICE:
		break;
	}
	if (!SVC_SLOTS(state))
		return refuse(EMPTY);
	backend = pick(state);
	if (!backend)
		return refuse(INCOMPLETE);
	if (backend->ip == dst->ip && backend->port == dst->port)
		return ALLOW; /* served at its own address on this node */
	flow = bpf_sk_storage_get(&connected, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (flow) {
		flow->vip = dst->ip;
		flow->vport = dst->port;
		flow->ip = backend->ip;
		flow->port = backend->port;
	}
	dst->ip = backend->ip;
	dst->port = backend->port;
	count(PICKED);
	return ALLOW;
}

/* The datagram goes to an address that is no service: replies from it are its own. */
INLINE void forget(struct bpf_sock_addr *ctx, struct address *dst)
{
	struct flows *flows = bpf_sk_storage_get(&unconnected, ctx->sk, 0, 0);
	int i;

	if (!flows)
		return;
#pragma unroll
	for (i = 0; i < FLOWS; i++)
		if (flows->flow[i].ip == dst->ip && flows->flow[i].port == dst->port)
			flows->flow[i].vport = 0;
}

/*
 * Tells whether flow leads to where dst is served now. Its backend may stay
 * through updates of the service, as long as it is one of the backends.
 */
INLINE int current(struct flow *flow, struct address *dst, __u64 state)
{
	struct backend_key key = {};

	if (flow->vip != dst->ip || flow->vport != dst->port || flow->svc != SVC_ID(state))
		return 0;
	if (flow->gen == SVC_GEN(state))
		return 1;
	key.svc = flow->svc;
	key.addr.ip = flow->ip;
	key.addr.port = flow->port;
	if (!bpf_map_lookup_elem(&backends, &key)) {
		flow->vport = 0;
		return 0;
	}
	flow->gen = SVC_GEN(state);
	return 1;
}

/* Remembers a flow in place of the oldest. */
INLINE void remember(struct flows *flows, struct address *dst, struct address *backend, __u64 state)
{
	__u32 i = READ_ONCE(flows->next) & (FLOWS - 1);
	struct flow *flow = &flows->flow[i];

	flow->vport = 0;
	flow->vip = dst->ip;
	flow->ip = backend->ip;
	flow->port = backend->port;
	flow->svc = SVC_ID(state);
	flow->gen = SVC_GEN(state);
	flow->vport = dst->port;
	WRITE_ONCE(flows->next, i + 1);
	WRITE_ONCE(flows->last, i);
}

/* sendmsg(2) of an unconnected socket to dst. */
INLINE int on_sendmsg(struct bpf_sock_addr *ctx, struct address *dst)
{
	struct address *backend;
	struct flows *flows;
	__u64 state = 0;
	int i;

	switch (find(UDP, dst, &state)) {
	case PASS:
		forget(ctx, dst);
		return ALLOW;
	case REFUSE_UNKNOWN:
		return refuse(UNKNOWN);
	case SERVICE:
		break;
	}
	if (!SVC_SLOTS(state))
		return refuse(EMPTY);
	flows = bpf_sk_storage_get(&unconnected, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (flows) {
#pragma unroll
		for (i = 0; i < FLOWS; i++) {
			if (!current(&flows->flow[i], dst, state))
				continue;
			dst->ip = flows->flow[i].ip;
			dst->port = flows->flow[i].port;
			WRITE_ONCE(flows->last, i);
			count(KEPT);
			return ALLOW;
		}
	}
	backend = pick(state);
	if (!backend)
		return refuse(INCOMPLETE);
	if (backend->ip == dst->ip && backend->port == dst->port)
		return ALLOW;
	if (flows)
		remember(flows, dst, backend, state);
	dst->ip = backend->ip;
	dst->port = backend->port;
	count(PICKED);
	return ALLOW;
}

INLINE int reversed(struct flow *flow, struct address *src)
{
	if (!flow->vport || flow->ip != src->ip || flow->port != src->port)
		return 0;
	src->ip = flow->vip;
	src->port = flow->vport;
	return 1;
}

/* Replaces a backend's address by the service that the socket named. */
INLINE int reverse(struct bpf_sock_addr *ctx, struct address *src)
{
	struct flow *flow = bpf_sk_storage_get(&connected, ctx->sk, 0, 0);
	struct flows *flows;
	int i;

	if (flow && reversed(flow, src))
		return 1;
	if (ctx->protocol != UDP)
		return 0;
	flows = bpf_sk_storage_get(&unconnected, ctx->sk, 0, 0);
	if (!flows)
		return 0;
	if (reversed(&flows->flow[READ_ONCE(flows->last) & (FLOWS - 1)], src))
		return 1;
#pragma unroll
	for (i = 0; i < FLOWS; i++)
		if (reversed(&flows->flow[i], src))
			return 1;
	return 0;
}

INLINE int mapped(struct bpf_sock_addr *ctx)
{
	return ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 && ctx->user_ip6[2] == __builtin_bswap32(0xffff);
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct address dst = { .ip = ctx->user_ip4, .port = ctx->user_port };
	int proto = protocol(ctx), verdict;

	if (!proto || !concerned(ctx))
		return ALLOW;
	verdict = on_connect(ctx, proto, &dst);
	ctx->user_ip4 = dst.ip;
	ctx->user_port = dst.port;
	return verdict;
}

/* IPv6 sockets that speak IPv4, as many programs use by default. */
SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct address dst = { .ip = ctx->user_ip6[3], .port = ctx->user_port };
	int proto = protocol(ctx), verdict;

	if (!proto || !mapped(ctx) || !concerned(ctx))
		return ALLOW;
	verdict = on_connect(ctx, proto, &dst);
	ctx->user_ip6[3] = dst.ip;
	ctx->user_port = dst.port;
	return verdict;
}

/*
 * There is no sendmsg6: a datagram to an IPv4 address passes here whatever
 * its socket's family.
 */
SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	struct address dst = { .ip = ctx->user_ip4, .port = ctx->user_port };
	int verdict;

	if (ctx->protocol != UDP || !concerned(ctx))
		return ALLOW;
	verdict = on_sendmsg(ctx, &dst);
	ctx->user_ip4 = dst.ip;
	ctx->user_port = dst.port;
	return verdict;
}

INLINE int show4(struct bpf_sock_addr *ctx)
{
	struct address src = { .ip = ctx->user_ip4, .port = ctx->user_port };

	if (concerned(ctx) && reverse(ctx, &src)) {
		ctx->user_ip4 = src.ip;
		ctx->user_port = src.port;
	}
	return ALLOW;
}

INLINE int show6(struct bpf_sock_addr *ctx)
{
	struct address src = { .ip = ctx->user_ip6[3], .port = ctx->user_port };

	if (mapped(ctx) && concerned(ctx) && reverse(ctx, &src)) {
		ctx->user_ip6[3] = src.ip;
		ctx->user_port = src.port;
	}
	return ALLOW;
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return show4(ctx);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return show6(ctx);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return show4(ctx);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return show6(ctx);
}

/* No helper used here asks for the GPL. */
char _license[] SEC("license") = "Apache-2.0";
