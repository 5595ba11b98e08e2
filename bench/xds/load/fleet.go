package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

type options struct {
	target, prefix            string
	ca, caKey                 string
	connections, pending, pid int
	timeout                   time.Duration
	types                     []string
}

// fleet is all streams of this process.
type fleet struct {
	options   options
	keys      *keys
	dial      []grpc.DialOption
	step      atomic.Pointer[step]
	live      atomic.Int64 // streams that have not ended
	versions  versions
	published published

	streams []*stream
	shared  []*grpc.ClientConn
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func newFleet(o options) (*fleet, error) {
	made, err := newKeys(o)
	if err != nil {
		return nil, err
	}
	f := &fleet{options: o, keys: made, dial: []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
		// Ten thousand connections in one process: small buffers, shared where they can be.
		grpc.WithSharedWriteBuffer(true),
		grpc.WithReadBufferSize(16 << 10),
		grpc.WithWriteBufferSize(4 << 10),
	}}
	f.step.Store(newStep(want{}, 0))
	return f, nil
}

func (f *fleet) connect(node string) (*grpc.ClientConn, error) {
	secure, err := f.keys.of(node)
	if err != nil {
		return nil, err
	}
	dial := append(f.dial[:len(f.dial):len(f.dial)], grpc.WithTransportCredentials(secure))
	return grpc.NewClient("passthrough:///"+f.options.target, dial...)
}

// node is the id of a stream's node.
func (f *fleet) node(index int) string { return fmt.Sprintf("%s%d", f.options.prefix, index) }

// prepare makes what streams need and is not measured.
func (f *fleet) prepare(count int) error {
	if f.options.connections > 0 {
		count = f.options.connections
	}
	if err := raiseLimit(uint64(count) + 200); err != nil {
		return err
	}
	nodes := make([]string, count)
	for index := range nodes {
		nodes[index] = f.node(index)
	}
	return f.keys.prepare(nodes)
}

// open starts `count` streams, at most `pending` at a time, and does not wait for the last ones.
// held: type URL → name → version that each stream says it has; nil for new ones.
func (f *fleet) open(count int, held map[string]map[string]string) error {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	for index := range f.options.connections {
		conn, err := f.connect(f.node(index))
		if err != nil {
			return err
		}
		f.shared = append(f.shared, conn)
	}
	first := make([][]byte, len(f.options.types))
	for at, typeURL := range f.options.types {
		known := held[typeURL]
		if held != nil {
			known = with(known, gone, "0")
		}
		first[at] = subscription(typeURL, known)
	}
	places := make(chan struct{}, f.options.pending)
	late := time.NewTimer(f.options.timeout)
	defer late.Stop()
	f.live.Store(int64(count))
	for index := range count {
		select {
		case places <- struct{}{}:
		case <-late.C:
			// Those that were not even begun have failed too, and are told apart.
			f.live.Add(-int64(count - index))
			f.step.Load().fail(count-index, true, errors.New("not begun: the time was over"))
			return nil
		}
		s := &stream{fleet: f, index: index, leave: sync.OnceFunc(func() { <-places })}
		f.streams = append(f.streams, s)
		f.running.Go(func() {
			err := s.run(ctx, first)
			s.leave()
			f.live.Add(-1)
			if now := f.step.Load(); ctx.Err() == nil {
				now.fail(1, s.step != now || !s.done, err)
			}
		})
	}
	return nil
}

func with(names map[string]string, name, version string) map[string]string {
	all := map[string]string{name: version}
	for name, version := range names {
		all[name] = version
	}
	return all
}

// close ends all streams and connections and waits for that.
func (f *fleet) close() {
	if f.cancel != nil {
		f.cancel()
	}
	f.running.Wait()
	for _, conn := range f.shared {
		_ = conn.Close()
	}
	f.streams, f.shared, f.cancel = nil, nil, nil
}

// stream is one delta ADS stream. Only its own goroutine uses it, but for `latest`.
type stream struct {
	fleet *fleet
	index int
	leave func() // gives its place among those that are pending to the next one

	step      *step // that the following counts are of
	seen      []uint64
	resources int
	removed   int
	done      bool

	latest atomic.Uint32 // generation, the newest that it has
}

func (s *stream) run(ctx context.Context, first [][]byte) error {
	f := s.fleet
	var conn *grpc.ClientConn
	if len(f.shared) > 0 {
		conn = f.shared[s.index%len(f.shared)]
	} else {
		own, err := f.connect(f.node(s.index))
		if err != nil {
			return err
		}
		defer own.Close()
		conn = own
	}
	opened, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return err
	}
	node := nodeField(f.node(s.index))
	for at, request := range first {
		if at == 0 {
			request = append(node, request...)
		}
		if err := opened.SendMsg(request); err != nil {
			return ended(opened, err)
		}
	}
	var frame []byte
	var read response
	for {
		if err := opened.RecvMsg(&frame); err != nil {
			return err
		}
		at := time.Now()
		if err := read.read(frame); err != nil {
			return err
		}
		s.got(at, &read, len(frame))
		if err := opened.SendMsg(ack(read.typeURL, read.nonce)); err != nil {
			return ended(opened, err)
		}
	}
}

// ended gives the status that the server ended the stream with: sending says no more than EOF.
func ended(opened grpc.ClientStream, err error) error {
	var frame []byte
	for {
		if said := opened.RecvMsg(&frame); said != nil {
			return said
		}
	}
}

func (s *stream) got(at time.Time, read *response, size int) {
	now := s.fleet.step.Load()
	if now != s.step {
		s.step, s.resources, s.removed, s.done = now, 0, 0, false
		clear(s.seen)
	}
	counted := 0
	for index := range read.resources {
		one := &read.resources[index]
		if one.marked && one.generation > s.latest.Load() {
			s.fleet.published.arrived(s.latest.Load(), at)
			s.latest.Store(one.generation)
		}
		if now.want.Generation != 0 && one.generation != now.want.Generation {
			continue
		}
		if one.marked && s.marks(one.index) {
			now.repeated.Add(1)
			continue
		}
		counted++
	}
	s.resources += counted
	s.removed += len(read.removed)
	now.messages.Add(1)
	now.resources.Add(int64(len(read.resources)))
	now.bytes.Add(int64(size))
	if counted > 0 || len(read.removed) > 0 {
		now.first.CompareAndSwap(0, int64(at.Sub(now.began)))
	}
	if s.index == 0 {
		s.fleet.versions.take(read)
	}
	if !s.done && s.resources >= now.want.Resources && s.removed >= now.want.Removed {
		s.done = true
		s.leave()
		now.finish(s.index, at)
	}
}

// marks says whether this resource was there already since the step began, and notes it.
func (s *stream) marks(index uint32) bool {
	word, bit := int(index/64), uint64(1)<<(index%64)
	for len(s.seen) <= word {
		s.seen = append(s.seen, 0)
	}
	was := s.seen[word]&bit != 0
	s.seen[word] |= bit
	return was
}
