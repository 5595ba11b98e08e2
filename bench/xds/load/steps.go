package main

import (
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"
)

// step is one thing that all streams wait for, and what it took.
type step struct {
	want  want
	began time.Time
	times []int64 // by stream: nanoseconds from `began` until it was in sync, 0 if it is not

	first                                atomic.Int64 // of any stream, likewise
	finished                             atomic.Int64
	messages, resources, repeated, bytes atomic.Int64

	mu     sync.Mutex
	errors map[string]int
	failed int
	lost   int // the failed that were not in sync
}

func newStep(w want, streams int) *step {
	return &step{want: w, began: time.Now(), times: make([]int64, streams), errors: map[string]int{}}
}

func (s *step) finish(stream int, at time.Time) {
	if stream < len(s.times) {
		s.times[stream] = max(1, int64(at.Sub(s.began)))
		s.finished.Add(1)
	}
}

func (s *step) fail(count int, lost bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed += count
	if lost {
		s.lost += count
	}
	told := status.Convert(err)
	s.errors[told.Code().String()+": "+told.Message()] += count
}

// over says whether no stream is left to wait for.
func (s *step) over(streams int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.finished.Load())+s.lost >= streams
}

// report is what a step took. Times are milliseconds from the moment before the change was made, or
// before the first connection was begun.
type report struct {
	Streams  int            `json:"streams"`  // that should get in sync
	InSync   int            `json:"in_sync"`  // that did
	Failed   int            `json:"failed"`   // that ended meanwhile, whether in sync or not
	Missing  int            `json:"missing"`  // that were neither when the time was over
	Errors   map[string]int `json:"errors"`   // of the failed: gRPC status → how many
	First    float64        `json:"first_ms"` // until the first stream had the first of it
	P50      float64        `json:"p50_ms"`
	P99      float64        `json:"p99_ms"`
	Last     float64        `json:"last_ms"`       // until the last stream was in sync
	FromIt   float64        `json:"from_first_ms"` // the same from `first_ms` on
	Change   float64        `json:"change_ms"`     // until the last request had been answered
	Messages int64          `json:"messages"`      // responses, those included that came after all were in sync
	Each     float64        `json:"messages_per_stream"`
	Received int64          `json:"resources"` // in these responses
	Repeated int64          `json:"repeated"`  // of them, those that the stream had got in this step already
	Bytes    int64          `json:"bytes"`     // of these responses, without framing
	CPU      float64        `json:"server_cpu_s"`
	RSS      int64          `json:"server_rss"` // bytes, when the server had come to rest
	Own      float64        `json:"client_cpu_s"`
}

// measured runs one step: `begin` makes it happen. What `prepare` does is in the server's time, but
// not in the step's.
func (f *fleet) measured(w want, streams int, prepare func(), begin func() error) (*report, error) {
	before, err := usageOf(f.options.pid)
	if err != nil {
		return nil, err
	}
	own := ownCPU()
	prepare()
	now := newStep(w, max(streams, len(f.streams))) // streams that ended keep their number
	f.step.Store(now)
	if err := begin(); err != nil {
		return nil, err
	}
	changed := time.Since(now.began)
	for end := now.began.Add(f.options.timeout); !now.over(streams) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	after, err := rested(f.options.pid)
	if err != nil {
		return nil, err
	}
	r := now.report(streams)
	r.Change = milliseconds(int64(changed))
	r.CPU, r.RSS, r.Own = after.CPU-before.CPU, after.RSS, ownCPU()-own
	return r, nil
}

func (s *step) report(streams int) *report {
	r := &report{Streams: streams, First: milliseconds(s.first.Load())}
	r.InSync = int(s.finished.Load())
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Failed, r.Errors = s.failed, maps.Clone(s.errors)
	var times []int64
	for _, at := range s.times {
		if at > 0 {
			times = append(times, at)
		}
	}
	r.Missing = max(0, streams-len(times)-s.lost)
	slices.Sort(times)
	r.P50, r.P99, r.Last = quantile(times, 0.5), quantile(times, 0.99), quantile(times, 1)
	r.FromIt = r.Last - r.First
	r.Messages, r.Received = s.messages.Load(), s.resources.Load()
	r.Repeated, r.Bytes = s.repeated.Load(), s.bytes.Load()
	r.Each = math.Round(100*float64(r.Messages)/float64(max(1, streams))) / 100
	return r
}

func quantile(ordered []int64, part float64) float64 {
	if len(ordered) == 0 {
		return 0
	}
	at := int(math.Ceil(part*float64(len(ordered)))) - 1
	return milliseconds(ordered[max(0, at)])
}

func milliseconds(nanoseconds int64) float64 { return float64(nanoseconds) / 1e6 }

// versions are what stream 0 holds: type URL → name → version.
type versions struct {
	mu    sync.Mutex
	types map[string]map[string]string
}

func (v *versions) take(read *response) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.types == nil {
		v.types = map[string]map[string]string{}
	}
	typeURL := string(read.typeURL)
	if v.types[typeURL] == nil {
		v.types[typeURL] = map[string]string{}
	}
	for index := range read.resources {
		one := &read.resources[index]
		v.types[typeURL][string(one.name)] = string(one.version)
	}
	for _, name := range read.removed {
		delete(v.types[typeURL], string(name))
	}
}

func (v *versions) held() map[string]map[string]string {
	v.mu.Lock()
	defer v.mu.Unlock()
	copied := map[string]map[string]string{}
	for typeURL, names := range v.types {
		copied[typeURL] = maps.Clone(names)
	}
	return copied
}

// published says when each generation was made known, and for how long any stream went without the
// one after that which it had.
type published struct {
	mu      sync.Mutex
	times   map[uint32]time.Time
	newest  uint32
	longest time.Duration
}

func (p *published) at(generation uint32, when time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.times == nil {
		p.times = map[uint32]time.Time{}
	}
	p.times[generation] = when
	p.newest = max(p.newest, generation)
}

// arrived notes that a stream which had `had` has a newer one now.
func (p *published) arrived(had uint32, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if since, known := p.times[had+1]; known {
		p.longest = max(p.longest, now.Sub(since))
	}
}

type lag struct {
	Published uint32  `json:"published"`
	Streams   int64   `json:"streams"`    // that are open
	Behind    uint32  `json:"behind"`     // updates that the furthest one has not got
	One       int     `json:"behind_any"` // streams that lack the newest one
	More      int     `json:"behind_two"` // streams that lack more than the newest one
	Longest   float64 `json:"longest_ms"` // that a stream went without an update that was published
	usage
}

func (f *fleet) lag() any {
	used, err := usageOf(f.options.pid)
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	p := &f.published
	p.mu.Lock()
	defer p.mu.Unlock()
	told := lag{Published: p.newest, Streams: f.live.Load(), usage: used}
	longest, now := p.longest, time.Now()
	for _, s := range f.streams {
		has := s.latest.Load()
		if has >= p.newest {
			continue
		}
		told.One++
		told.Behind = max(told.Behind, p.newest-has)
		if p.newest-has > 1 {
			told.More++
		}
		if since, known := p.times[has+1]; known {
			longest = max(longest, now.Sub(since))
		}
	}
	told.Longest, p.longest = milliseconds(int64(longest)), 0
	return told
}
