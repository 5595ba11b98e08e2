package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	xds "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// store is a cache that takes whole states. replace is called by one goroutine at a time.
type store interface {
	cache.Cache
	replace(next held) error
	callbacks() xds.Callbacks
}

func chosen(kind string) (func() store, error) {
	switch kind {
	case "linear":
		return func() store { return &linear{caches: map[string]*cache.LinearCache{}} }, nil
	case "snapshot":
		return func() store {
			return &snapshots{
				SnapshotCache: cache.NewSnapshotCache(false, cache.IDHash{}, nil),
				nodes:         map[string]struct{}{},
			}
		}, nil
	}
	return nil, fmt.Errorf("-cache %s: linear or snapshot", kind)
}

// linear has one linear cache a type, as cache.MuxCache does, but makes them when they are needed.
type linear struct {
	held held

	mu     sync.Mutex
	caches map[string]*cache.LinearCache
}

func (l *linear) of(typeURL string) (*cache.LinearCache, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if found, ok := l.caches[typeURL]; ok {
		return found, nil
	}
	if _, err := protoregistry.GlobalTypes.FindMessageByURL(typeURL); err != nil {
		return nil, fmt.Errorf("no cache defined for key %s", typeURL) // as cache.MuxCache says it
	}
	made := cache.NewLinearCache(typeURL)
	l.caches[typeURL] = made
	return made, nil
}

func (l *linear) CreateWatch(r *cache.Request, s cache.Subscription, c chan cache.Response) (func(), error) {
	found, err := l.of(r.GetTypeUrl())
	if err != nil {
		return nil, err
	}
	return found.CreateWatch(r, s, c)
}

func (l *linear) CreateDeltaWatch(r *cache.DeltaRequest, s cache.Subscription, c chan cache.DeltaResponse) (func(), error) {
	found, err := l.of(r.GetTypeUrl())
	if err != nil {
		return nil, err
	}
	return found.CreateDeltaWatch(r, s, c)
}

func (l *linear) Fetch(ctx context.Context, r *cache.Request) (cache.Response, error) {
	found, err := l.of(r.GetTypeUrl())
	if err != nil {
		return nil, err
	}
	return found.Fetch(ctx, r)
}

// replace hands each cache what differs, in one call: that is what its documentation advises.
func (l *linear) replace(next held) error {
	all := held{}
	for typeURL := range l.held {
		all[typeURL] = nil // types of which nothing is left
	}
	for typeURL, resources := range next {
		all[typeURL] = resources
	}
	for _, typeURL := range sorted(all) {
		changed := map[string]types.Resource{}
		for name, resource := range all[typeURL] {
			if old, ok := l.held[typeURL][name]; !ok || old != resource && !proto.Equal(old, resource) {
				changed[name] = resource
			}
		}
		var removed []string
		for name := range l.held[typeURL] {
			if _, ok := all[typeURL][name]; !ok {
				removed = append(removed, name)
			}
		}
		if len(changed) == 0 && len(removed) == 0 {
			continue
		}
		found, err := l.of(typeURL)
		if err != nil {
			return err
		}
		slices.Sort(removed)
		if err := found.UpdateResources(changed, removed); err != nil {
			return err
		}
	}
	l.held = next
	return nil
}

func (l *linear) callbacks() xds.Callbacks { return xds.CallbackFuncs{} }

// snapshots gives each node that has asked for something a snapshot of its own key. The snapshots
// of all nodes are one value, so that what is measured is the cache, not the copies.
type snapshots struct {
	cache.SnapshotCache

	mu    sync.Mutex
	now   *cache.Snapshot // nil until the first state
	nodes map[string]struct{}
}

func (s *snapshots) replace(next held) error {
	made := &cache.Snapshot{}
	for index := range made.Resources {
		// Nothing is a state too, and has a version.
		made.Resources[index] = cache.NewResources("0", nil)
	}
	for typeURL, resources := range next {
		index := cache.GetResponseType(typeURL)
		if index == types.UnknownType {
			return fmt.Errorf("%s: the snapshot cache does not serve this type", typeURL)
		}
		version := sha256.New()
		items := make([]types.Resource, 0, len(resources))
		for _, name := range sorted(resources) {
			bytes, err := cache.MarshalResource(resources[name])
			if err != nil {
				return err
			}
			version.Write(bytes)
			items = append(items, resources[name])
		}
		made.Resources[index] = cache.NewResources(hex.EncodeToString(version.Sum(nil))[:16], items)
	}
	// Once for all nodes, while nobody else has it.
	if err := made.ConstructVersionMap(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = made
	for _, node := range sorted(s.nodes) {
		if err := s.SetSnapshot(context.Background(), node, made); err != nil {
			return err
		}
	}
	return nil
}

// seen gives a node its snapshot before its first request is looked at.
func (s *snapshots) seen(node *core.Node) error {
	if node.GetId() == "" {
		return nil // not in this request: it was in the first one
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.nodes[node.GetId()]; known {
		return nil
	}
	s.nodes[node.GetId()] = struct{}{}
	if s.now == nil {
		return nil
	}
	return s.SetSnapshot(context.Background(), node.GetId(), s.now)
}

func (s *snapshots) callbacks() xds.Callbacks {
	return xds.CallbackFuncs{
		StreamRequestFunc: func(_ int64, r *discovery.DiscoveryRequest) error {
			return s.seen(r.GetNode())
		},
		StreamDeltaRequestFunc: func(_ int64, r *discovery.DeltaDiscoveryRequest) error {
			return s.seen(r.GetNode())
		},
	}
}
