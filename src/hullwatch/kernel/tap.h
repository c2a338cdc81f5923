/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The tap: what a process reads from and writes to pipes, sockets and TLS, with no change to it.
 *
 * The kernel knows just enough of JSON to see a `tools/call` that a server reads and the reply that
 * it writes: then the span is there before the server acts, and over when it has answered. All else
 * is read in user space (agent/tap.py), from the bytes that are sent here: the parser there is the one
 * that counts, and ends what was begun here by mistake.
 */
#ifndef HULLWATCH_TAP_H
#define HULLWATCH_TAP_H

#include "socket.h"
#include "span.h"

#define TAP_DATA 256	      /* where in the scratch: before it is room for records */
#define TAP_PIECE ARGV_ROOM   /* bytes read, looked at and sent at once */
#define TAP_PIECES 40	      /* at most, of one system call: I/O vectors are short */
#define TAP_FIRST (64 << 10)  /* of a longer call its end is sent as well, not its middle */
#define TAP_WINDOW 1024	      /* bytes of a message that are looked at one by one */
#define TAP_TAIL 56	      /* and of its end */
#define TAP_ROOM (32 << 10)   /* bytes of a stream that nobody has said to want yet */
#define TAP_HEAD (4 << 10)    /* and of each later request on it */
#define TAP_ALL 2	      /* settings.tap: all of TLS, whatever it says */

/* A message as far as it was seen, in one direction. */
struct tap_side {
	u64 token; /* hash of the key, string or number that is being read */
	u64 id;	   /* hash of the message's id, 0 = not seen */
	u64 call;  /* that this message has begun */
	u32 at;	   /* bytes of it */
	u32 missed; /* bytes of the stream that were not sent */
	u8 state, depth, bits, key, found, column, first, pad;
};
enum { TAP_OUTSIDE = 0, TAP_INSIDE = 1, TAP_SKIM = 2 };				   /* state */
enum { TAP_STRING = 1, TAP_ESCAPED = 2, TAP_VALUE = 4, TAP_SCALAR = 8 };	   /* bits */
enum { TAP_OTHER = 0, TAP_ID = 1, TAP_METHOD = 2, TAP_REPLY = 3 };		   /* key */
enum { FOUND_METHOD = 1, FOUND_REPLY = 2, FOUND_CALL = 4, FOUND_SERVER = 8 };	   /* found */

struct tap_stream {
	struct tap_side sides[2]; /* sent, received */
	u64 room;
	u32 kind;
	u32 wanted; /* 0: not said yet, 1: yes, 2: no */
	u32 serves; /* pipe: a client's requests were read from it, or replies written to it */
	u32 tgid;
	u64 stream;
	u16 family, port, local_port, pad;
	u8 addr[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct hw_tap_key);
	__type(value, struct tap_stream);
} tap_streams SEC(".maps");

/* What user space says of a stream: 1: all of it, 2: no more. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct hw_tap_key);
	__type(value, u32);
} tap_wanted SEC(".maps");

/* Processes that have a stream. actor: whose calls they serve (span.h); user space leaves out its own
 * gateways by an actor of all ones. */
#define TAP_LEFT_OUT (~0ULL)
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, u64);
} tapped SEC(".maps");

/* Calls without a reply. */
struct tap_open { u64 stream, id; u32 tgid, pad; };
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct tap_open);
	__type(value, u64);
} tap_open SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* the loader's, where the tap is on */
} tap SEC(".maps");

/* FNV-1a of what is compared; strings with the quote before them, so that 1 and "1" are two. */
#define FNV_START 0xcbf29ce484222325ULL
#define FNV_PRIME 0x100000001b3ULL
#define T_ID 0xd441ce17d7ddb480ULL	   /* "id */
#define T_METHOD 0x5ee7206512825c70ULL	   /* "method */
#define T_RESULT 0xd3c6e7fbec027884ULL	   /* "result */
#define T_ERROR 0xb552b0f5808c74f1ULL	   /* "error */
#define T_CALL 0xd3f1c2091c99746dULL	   /* "tools/call */
#define T_LIST 0x5f7c61df3e3c6a55ULL	   /* "tools/list */
#define T_INITIALIZE 0x0a8b27f4a228664bULL /* "initialize */
#define T_DISCOVER 0x99e5c255b5cc9a14ULL   /* "server/discover */

/* What is left to do of a call; in the scratch, so that the verifier does not follow every number. */
struct tap_work {
	u64 vector, base, here, left, done;
	u64 span; /* of the process, before this began any */
	u32 count, received;
	u32 room;	/* bytes that may be sent */
	u32 at, end;	/* of the piece, while it is looked at */
	u32 pad;
};
#define TAP_WORK 88 /* between the record of a call and that of data */
_Static_assert(sizeof(struct hw_tap) <= TAP_WORK, "room for a record");
_Static_assert(TAP_WORK + sizeof(struct tap_work) <= TAP_DATA - sizeof(struct hw_tap), "room for the work");

/* ---- records ----------------------------------------------------------------------------- */

/* The header of a record at `at` in the scratch, but for its length. */
HOT struct hw_tap *tap_header(struct scratch *s, u32 at, const struct tap_stream *st, u16 what, u16 received)
{
	struct hw_tap *h = (void *)&s->data[at];

	__builtin_memset(h, 0, sizeof(*h));
	h->ts = bpf_ktime_get_boot_ns();
	h->stream = st->stream;
	h->proc = key_of((void *)bpf_get_current_task());
	h->cgroup = bpf_get_current_cgroup_id();
	h->tid = (u32)bpf_get_current_pid_tgid();
	h->what = what;
	h->kind = st->kind;
	h->received = received;
	h->family = st->family;
	h->port = st->port;
	h->local_port = st->local_port;
	__builtin_memcpy(h->addr, st->addr, sizeof(h->addr));
	return h;
}

HOT void tap_missed(struct tap_side *d, u64 bytes)
{
	d->missed = bytes > ~0u - d->missed ? ~0u : d->missed + bytes;
}

/* As other rings: nearly full, it takes a share of each container's, so that none hides the others. */
HOT bool tap_room(u64 cgroup, u64 size)
{
	u64 room = ring_size(&tap);

	return ring_used(&tap) < room / 2 || within_share(cgroup, HW_CALL, false, size, room / SHARES);
}

/* Bytes that are in the scratch, and how many after them are missing. */
__noinline int tap_send(struct tap_stream *st, struct scratch *s, u32 received, u32 len, u32 missing)
{
	struct tap_side *d;
	struct hw_tap *h;
	u64 size;

	if (!st || !s)
		return 0;
	d = &st->sides[received & 1];
	h = tap_header(s, TAP_DATA - sizeof(*h), st, HW_T_DATA, received);
	h->call = ((struct tap_work *)&s->data[TAP_WORK])->span;
	size = sizeof(*h) + len;
	if (!tap_room(h->cgroup, size))
		goto full;
	if (d->missed) { /* before these */
		h->total = d->missed;
		if (bpf_ringbuf_output(&tap, h, sizeof(*h), 0))
			goto full;
		d->missed = 0;
	}
	h->len = len;
	h->total = len + missing;
	FRESH(size);
	if (size > sizeof(*h) + TAP_PIECE)
		return 0;
	if (!bpf_ringbuf_output(&tap, h, size, 0))
		return 0;
full:
	tap_missed(d, len + missing);
	lost(HW_L_TAP, HW_NONE, h->cgroup);
	return 0;
}

/* ---- calls ------------------------------------------------------------------------------- */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct hw_calls);
} no_calls SEC(".maps");

HOT u64 random63(void)
{
	u64 value = (u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();

	return value << 1 >> 1 ?: 1;
}

/* A call of this process begins: its id; 0 if it is somebody else's to say, or there is no room. */
__noinline u64 tap_begin(u32 tgid)
{
	u64 *actor = bpf_map_lookup_elem(&tapped, &tgid), cgroup = bpf_get_current_cgroup_id(), call;
	struct hw_acting *a, new = {};
	u32 zero = 0;
	void *none;

	if (!actor || *actor == TAP_LEFT_OUT)
		return 0;
	a = bpf_map_lookup_elem(&acting, &tgid);
	if (a && a->server && a->server != *actor) /* a gateway's, or it tells of its calls itself */
		return 0;
	if (!*actor) {
		call = random63();
		none = bpf_map_lookup_elem(&no_calls, &zero);
		if (!none || bpf_map_update_elem(&running, &call, none, BPF_NOEXIST)) {
			lost(HW_L_SPAN, HW_CALL, cgroup);
			return 0;
		}
		*actor = call;
	}
	if (!a || !a->server) {
		new.span = a ? a->span : 0;
		new.server = *actor;
		if (bpf_map_update_elem(&acting, &tgid, &new, BPF_ANY))
			lost(HW_L_SPAN, HW_CALL, cgroup);
	}
	call = random63();
	if (call_changed(*actor, call, 1)) {
		lost(HW_L_SPAN, HW_CALL, cgroup);
		return 0;
	}
	return call;
}

__noinline int tap_forget(u32 tgid)
{
	u64 *actor = bpf_map_lookup_elem(&tapped, &tgid);

	if (!actor)
		return 0;
	if (*actor && *actor != TAP_LEFT_OUT)
		bpf_map_delete_elem(&running, actor);
	bpf_map_delete_elem(&tapped, &tgid);
	return 0;
}

/* What a message means that was seen; final: to its end. */
__noinline int tap_message(struct tap_stream *st, struct scratch *s, u32 received, u32 final)
{
	struct tap_open key = {};
	struct tap_side *d;
	struct hw_tap *h;
	u64 *known, call;

	if (!st || !s)
		return 0;
	received &= 1;
	d = &st->sides[received];
	key.stream = st->kind == HW_K_PIPE ? 0 : st->stream;
	key.tgid = st->tgid;
	key.id = d->id;
	if (received && d->found & FOUND_SERVER)
		st->serves = 1; /* of this, `found` is forgotten below */
	if (received && d->found & FOUND_CALL) {
		if (!d->call)
			d->call = tap_begin(st->tgid);
		call = d->call;
		if (final && call) {
			if (key.id)
				bpf_map_update_elem(&tap_open, &key, &call, BPF_ANY);
			h = tap_header(s, 0, st, HW_T_BEGAN, 1);
			h->call = call;
			h->id = key.id;
			if (bpf_ringbuf_output(&tap, h, sizeof(*h), 0))
				lost(HW_L_TAP, HW_CALL, h->cgroup);
		}
	}
	if (!received && final && d->id && (d->found & (FOUND_REPLY | FOUND_METHOD)) == FOUND_REPLY) {
		st->serves = 1;
		known = bpf_map_lookup_elem(&tap_open, &key);
		if (known) {
			call = *known;
			bpf_map_delete_elem(&tap_open, &key);
			known = bpf_map_lookup_elem(&tapped, &key.tgid);
			if (known)
				call_changed(*known, call, 0);
		}
	}
	if (final) {
		d->state = TAP_OUTSIDE;
		d->column = 1;
		d->found = 0;
		d->id = d->call = 0;
	}
	return 0;
}

/* ---- looking ----------------------------------------------------------------------------- */

/* A byte of the scratch; masked where the compiler knows of no bounds, so that the verifier does. */
HOT u8 byte_at(struct scratch *s, u32 at)
{
	FRESH(at);
	return s->data[at & (2 * ARGV_ROOM - 1)];
}

struct tap_walk { struct scratch *s; u32 at, end; u64 hash; };

/* Backwards from a message's end to `,"id":`. */
static long tail_step(u32 i, struct tap_walk *w)
{
	u32 at = w->at - i - 6;
	u8 *p;

	if (w->at < TAP_DATA + i + 6)
		return 1;
	FRESH(at);
	p = &w->s->data[at & (2 * ARGV_ROOM - 1)];
	if (p[5] != ':' || p[4] != '"' || p[3] != 'd' || p[2] != 'i' || p[1] != '"' || p[0] != ',')
		return 0;
	w->at -= i;
	w->hash = FNV_START;
	return 1;
}

static long token_step(u32 i, struct tap_walk *w)
{
	u8 c = byte_at(w->s, w->at);

	if (w->at >= w->end)
		return 1;
	w->at++;
	if (c == ' ')
		return 0;
	w->hash = (w->hash ^ c) * FNV_PRIME;
	return 0;
}

/*
 * The id of a message that ends before `end`, if it stands last in it, as many libraries write it:
 * what is right before the last brace is of the outermost object. 0: it does not.
 */
__noinline u64 tap_tail(struct scratch *s, u32 end)
{
	struct tap_walk w = { .s = s };
	u8 c;

	if (!s || end <= TAP_DATA + 8 || end > TAP_DATA + TAP_PIECE)
		return 0;
	if (byte_at(s, end - 1) == '\r')
		end--;
	end--;
	if (byte_at(s, end) != '}')
		return 0;
	w.at = w.end = end;
	bpf_loop(TAP_TAIL, tail_step, &w, 0);
	if (!w.hash)
		return 0;
	c = byte_at(s, end - 1);
	if (c == '"')
		w.end--;
	else if (c < '0' || c > '9')
		return 0;
	bpf_loop(TAP_TAIL, token_step, &w, 0);
	return w.hash;
}

struct tap_both { struct tap_stream *st; struct scratch *s; };

#define ONES 0x0101010101010101ULL

HOT void tap_token(struct tap_side *d)
{
	if (d->key == TAP_ID)
		d->id = d->token;
	if (d->key == TAP_METHOD) {
		d->found |= FOUND_METHOD;
		if (d->token == T_CALL)
			d->found |= FOUND_CALL;
		if (d->token == T_CALL || d->token == T_LIST || d->token == T_INITIALIZE || d->token == T_DISCOVER)
			d->found |= FOUND_SERVER;
	}
}

/* A byte of an object; true: its last. */
HOT bool tap_inside(struct tap_side *d, u8 c)
{
	u8 bits = d->bits;

	if (bits & TAP_STRING) {
		if (bits & TAP_ESCAPED) {
			d->bits = bits & ~TAP_ESCAPED;
		} else if (c == '\\') {
			d->bits = bits | TAP_ESCAPED;
		} else if (c == '"') {
			d->bits = bits & ~TAP_STRING;
			if (d->depth == 1 && bits & TAP_VALUE)
				tap_token(d);
			else if (d->depth == 1)
				d->key = d->token == T_ID	? TAP_ID :
					 d->token == T_METHOD	? TAP_METHOD :
					 d->token == T_RESULT || d->token == T_ERROR ? TAP_REPLY : TAP_OTHER;
			return false;
		}
		d->token = (d->token ^ c) * FNV_PRIME;
		return false;
	}
	switch (c) {
	case '"':
		d->bits |= TAP_STRING;
		d->token = (FNV_START ^ '"') * FNV_PRIME;
		return false;
	case '{':
	case '[':
		if (d->depth < 255)
			d->depth++;
		return false;
	case ' ':
	case '\r':
	case '\t':
	case '\n':
		return false;
	}
	if (d->depth == 1 && c == ':') {
		d->bits |= TAP_VALUE;
		d->token = FNV_START;
		if (d->key == TAP_REPLY)
			d->found |= FOUND_REPLY;
	} else if (d->depth == 1 && (c == ',' || c == '}')) {
		if (bits & TAP_SCALAR)
			tap_token(d);
		d->bits = 0;
		d->key = TAP_OTHER;
	} else if (d->depth == 1 && bits & TAP_VALUE && c != ']') {
		d->bits |= TAP_SCALAR;
		d->token = (d->token ^ c) * FNV_PRIME;
	}
	if (c == '}' || c == ']')
		d->depth--;
	return !d->depth;
}

/* One byte, or eight of those that only matter for where they end; 1: there are no more. */
static long tap_byte(u32 i, struct tap_both *b)
{
	struct tap_stream *st = b->st;
	struct scratch *s = b->s;
	struct tap_work *w = (void *)&s->data[TAP_WORK];
	struct tap_side *d = &st->sides[w->received & 1];
	u64 word;
	u32 at = TAP_DATA + w->at;
	u8 c;

	if (w->at >= w->end)
		return 1;
	FRESH(at);
	at &= 2 * ARGV_ROOM - 1;
	if (d->state == TAP_SKIM && !(at & 7) && w->at + 8 <= w->end) {
		word = *(u64 *)&s->data[at] ^ ONES * '\n';
		if (!((word - ONES) & ~word & ONES << 7)) {
			w->at += 8;
			return 0;
		}
	}
	c = byte_at(s, at);
	w->at++;
	if (d->state == TAP_INSIDE) {
		if (tap_inside(d, c))
			tap_message(st, s, w->received, 1);
		else if (++d->at > TAP_WINDOW)
			d->state = TAP_SKIM;
		return 0;
	}
	if (c == '\n') {
		if (d->state == TAP_SKIM) {
			word = tap_tail(s, at);
			if (word && !d->id)
				d->id = word;
			tap_message(st, s, w->received, 1);
		}
		d->column = 0;
		return 0;
	}
	if (d->state == TAP_SKIM)
		return 0;
	/* A line of JSON, the body after a head, or `data: {` of an event stream. */
	if (!d->column)
		d->first = c;
	if (c == '{' && (!d->column || (d->first == 'd' && d->column < 8))) {
		d->state = TAP_INSIDE;
		d->depth = 1;
		d->bits = d->key = d->found = 0;
		d->at = 0;
		d->id = d->call = 0;
	}
	if (d->column < 255)
		d->column++;
	return 0;
}

/* ---- pieces ------------------------------------------------------------------------------ */

/* What one system call, or call of a library, has moved. */
struct tap_io {
	u64 stream, base, vector, total;
	u32 count; /* of the vector; 0: base is all */
	u16 kind, received;
	u8 begins, pad[7];
};
enum { BEGINS_LINES = 1, BEGINS_REQUEST = 2, BEGINS_STREAM = 3 };

struct tap_vector { u64 base, len; };

/* The next piece; 1: there is none. */
static long tap_piece(u32 i, struct tap_both *b)
{
	struct tap_stream *st = b->st;
	struct scratch *s = b->s;
	struct tap_work *w = (void *)&s->data[TAP_WORK];
	struct tap_side *d;
	struct tap_vector v;
	u64 n, sent, skip;

	if (!w->left)
		return 1;
	if (!w->here) {
		if (!w->count || bpf_probe_read_user(&v, sizeof(v), (void *)w->vector))
			return 1;
		w->vector += sizeof(v);
		w->count--;
		w->base = v.base;
		w->here = v.len < w->left ? v.len : w->left;
		if (!w->here)
			return 0;
	}
	d = &st->sides[w->received & 1];
	n = w->here < TAP_PIECE ? w->here : TAP_PIECE;
	if (w->done >= TAP_FIRST && w->left > TAP_PIECE) {
		skip = w->left - TAP_PIECE;
		n = w->here < skip ? w->here : skip;
		tap_missed(d, n);
		if (d->state == TAP_INSIDE)
			d->state = TAP_SKIM;
		goto next;
	}
	FRESH(n);
	if (n > TAP_PIECE)
		return 1;
	if (bpf_probe_read_user(&s->data[TAP_DATA], n, (void *)w->base)) {
		tap_missed(d, n);
		goto next;
	}
	w->at = 0;
	w->end = n;
	bpf_loop(n, tap_byte, b, 0);
	if (w->received && d->found & FOUND_SERVER)
		st->serves = 1;
	if (st->kind == HW_K_PIPE && !st->serves && !(d->state == TAP_INSIDE && !d->found)) {
		/* Nothing of it was sent but what might still have become a request. */
		d->missed = 0;
	} else {
		sent = n < w->room ? n : w->room;
		if (sent)
			tap_send(st, s, w->received, sent, n - sent);
		else
			tap_missed(d, n);
		w->room -= sent;
	}
next:
	w->base += n;
	w->here -= n;
	w->left -= n;
	w->done += n;
	return 0;
}

/* How the bytes at an address begin. */
__noinline int tap_begins(u64 base, u64 len)
{
	u64 word = 0;

	if (len < 8 || bpf_probe_read_user(&word, sizeof(word), (void *)base))
		return 0;
	if (word == 0x70726e6f736a227bULL || word == 0x646f6874656d227bULL || /* {"jsonrp {"method */
	    word == 0x736d61726170227bULL || word == 0x746c75736572227bULL || /* {"params {"result */
	    word == 0x22726f727265227bULL || (u32)word == 0x6469227b)	      /* {"error" {"id */
		return BEGINS_LINES;
	if ((u32)word == 0x54534f50 || word == 0x5448202a20495250ULL) /* POST, PRI * HT */
		return BEGINS_REQUEST;
	if ((u32)word == 0x20544547) /* GET */
		return BEGINS_STREAM;
	return 0;
}

struct tap_find { struct scratch *s; u64 word; u32 len, found; };

static long find_step(u32 i, struct tap_find *f)
{
	f->word = f->word << 8 | byte_at(f->s, TAP_DATA + i);
	f->found = f->word == 0x656e742d73747265ULL; /* ev(ent-stre)am */
	return i >= f->len || f->found;
}

/* A GET is followed where it asks for a stream of events. */
HOT bool asks_for_events(struct scratch *s, u64 base, u64 len)
{
	struct tap_find f = { .s = s };

	if (len > 1024)
		len = 1024;
	FRESH(len);
	if (len > 1024 || bpf_probe_read_user(&s->data[TAP_DATA], len, (void *)base))
		return false;
	f.len = len;
	bpf_loop(1024, find_step, &f, 0);
	return f.found;
}

/* The stream, new if it begins as one does that is of interest. */
HOT struct tap_stream *tap_stream_of(struct tap_io *io, struct scratch *s, struct sock *sk)
{
	u64 pid_tgid = bpf_get_current_pid_tgid(), none = 0;
	struct hw_tap_key key = { .stream = io->stream, .tgid = pid_tgid >> 32 };
	struct tap_stream *st = bpf_map_lookup_elem(&tap_streams, &key);

	if (st || !io->begins)
		return st;
	if (io->begins == BEGINS_STREAM && !asks_for_events(s, io->base, io->total))
		return NULL;
	if (bpf_map_update_elem(&tapped, &key.tgid, &none, BPF_NOEXIST) && !bpf_map_lookup_elem(&tapped, &key.tgid)) {
		lost(HW_L_TAP, HW_NONE, bpf_get_current_cgroup_id());
		return NULL;
	}
	st = (void *)&s->data[TAP_DATA];
	__builtin_memset(st, 0, sizeof(*st));
	st->stream = io->stream;
	st->tgid = key.tgid;
	st->kind = io->kind;
	st->room = TAP_ROOM;
	if (sk) {
		bpf_core_read(&st->family, 2, &sk->__sk_common.skc_family);
		bpf_core_read(&st->port, 2, &sk->__sk_common.skc_dport);
		st->port = bpf_ntohs(st->port);
		st->local_port = local_port(sk);
		if (st->family == AF_INET)
			bpf_core_read(st->addr, 4, &sk->__sk_common.skc_daddr);
		else if (st->family == AF_INET6)
			bpf_core_read(st->addr, 16, &sk->__sk_common.skc_v6_daddr);
		else
			st->port = st->local_port = 0;
	}
	bpf_map_update_elem(&tap_streams, &key, st, BPF_ANY);
	return bpf_map_lookup_elem(&tap_streams, &key);
}

/* How many bytes of what is moved now may be sent. */
HOT u32 tap_allowed(struct tap_stream *st, const struct tap_io *io)
{
	struct hw_tap_key key = { .stream = io->stream, .tgid = st->tgid };
	u32 *wanted, most = TAP_FIRST + TAP_PIECE;

	if (settings.tap == TAP_ALL)
		return most;
	if (!st->wanted) {
		wanted = bpf_map_lookup_elem(&tap_wanted, &key);
		if (wanted)
			st->wanted = *wanted;
	}
	if (st->wanted)
		return st->wanted == 1 ? most : 0;
	if (st->room < most)
		most = st->room;
	/* Later requests on it may be others. */
	return io->begins == BEGINS_REQUEST && most < TAP_HEAD ? TAP_HEAD : most;
}

/* What is left to do when all pieces were taken. */
__noinline int tap_rest(struct tap_stream *st, struct scratch *s, u32 given)
{
	struct tap_work *w;
	struct tap_side *d;

	if (!st || !s)
		return 0;
	w = (void *)&s->data[TAP_WORK];
	d = &st->sides[w->received & 1];
	tap_missed(d, w->left); /* more pieces than are looked at */
	if (st->wanted != 1) {
		given -= w->room;
		st->room -= given < st->room ? given : st->room;
	}
	if (d->state == TAP_SKIM && !d->id && w->done && w->done <= TAP_PIECE)
		d->id = tap_tail(s, TAP_DATA + w->done);
	if (d->state == TAP_SKIM && d->id && st->kind != HW_K_PIPE)
		tap_message(st, s, w->received, 1); /* bodies end without a line end */
	else if (d->found & FOUND_CALL && !d->call)
		tap_message(st, s, w->received, 0);
	return 0;
}

/* It is over: its address, or inode, may be another's from now on. */
__noinline int tap_ended(struct tap_stream *st, struct scratch *s)
{
	struct hw_tap_key key = {};
	struct hw_tap *h;

	if (!st || !s)
		return 0;
	h = tap_header(s, 0, st, HW_T_ENDED, 1);
	if (bpf_ringbuf_output(&tap, h, sizeof(*h), 0))
		lost(HW_L_TAP, HW_NONE, h->cgroup);
	if (st->kind == HW_K_PIPE) /* what was read to its end is still answered */
		return 0;
	key.stream = st->stream;
	key.tgid = st->tgid;
	bpf_map_delete_elem(&tap_wanted, &key);
	bpf_map_delete_elem(&tap_streams, &key);
	return 0;
}

/* sk: of the stream, if it has one. Inline, as calls may be eight deep only. */
HOT int tap_take(struct tap_io *io, struct sock *sk)
{
	struct tap_both b = {};
	struct tap_work *w;
	u32 given;

	b.s = scratch_get(HW_NONE, 0);
	if (!b.s)
		return 0;
	b.st = tap_stream_of(io, b.s, sk);
	if (!b.st)
		goto out;
	if (!io->total) {
		tap_ended(b.st, b.s);
		goto out;
	}
	given = tap_allowed(b.st, io);
	if (!given) { /* nobody wants it, or has said so yet */
		struct tap_side *d = &b.st->sides[io->received & 1];

		tap_missed(d, io->total);
		if (d->state == TAP_INSIDE)
			d->state = TAP_SKIM;
		goto out;
	}
	w = (void *)&b.s->data[TAP_WORK];
	__builtin_memset(w, 0, sizeof(*w));
	w->received = io->received & 1;
	w->room = given;
	w->base = io->base;
	w->here = io->count ? 0 : io->total;
	w->vector = io->vector;
	w->count = io->count;
	w->left = io->total;
	w->span = current_span();
	bpf_loop(TAP_PIECES, tap_piece, &b, 0);
	tap_rest(b.st, b.s, given);
out:
	scratch_put(b.s);
	return 0;
}

/* A TLS library lets go of a connection. */
__noinline int tap_tls_ended(u64 conn)
{
	struct tap_io io = { .stream = conn, .kind = HW_K_TLS };

	return settings.tap && !is_own() ? tap_take(&io, NULL) : 0;
}

/* Plain bytes that a TLS library has moved. conn: the address of its connection. */
__noinline int tap_tls(u64 conn, u64 buf, u64 len, u32 received)
{
	struct tap_io io = { .stream = conn, .base = buf, .total = len, .kind = HW_K_TLS };

	if (!len || !settings.tap || is_own())
		return 0;
	io.received = received;
	io.begins = tap_begins(buf, len);
	if (settings.tap == TAP_ALL && !io.begins)
		io.begins = BEGINS_LINES;
	return tap_take(&io, NULL);
}

#endif
