package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	// Types that may stand in a resource beside those that the server knows anyway.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	_ "google.golang.org/protobuf/types/known/wrapperspb"
)

// held is the state that was set: type URL → name → resource. What is in it is never modified.
type held map[string]map[string]types.Resource

// maxBody bounds a request: some 100,000 resources of 400 bytes.
const maxBody = 128 << 20

// handler takes
//
//	PUT   /resources  {"resources": [{"@type": ..., ...}, ...]}: the whole new state of every node
//	PATCH /resources  the same form: these are added or changed, all others stay
//	POST  /restart    ends all streams, and serves the same state anew on the same port
//
// and answers 204 when it is done, 400 with the reason when the request is not understood, 501 when a
// resource has a time to live: what is here gives the caches none. With the content type
// application/x-protobuf a body is the same as a DiscoveryResponse.
func (t *target) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /resources", func(w http.ResponseWriter, r *http.Request) {
		t.set(w, r, func(read held) held { return read })
	})
	mux.HandleFunc("PATCH /resources", func(w http.ResponseWriter, r *http.Request) {
		t.set(w, r, func(read held) held { return merged(t.held, read) })
	})
	mux.HandleFunc("POST /restart", func(w http.ResponseWriter, _ *http.Request) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.stop()
		if err := t.start(); err != nil {
			log.Fatalf("restart: %v", err)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

func (t *target) set(w http.ResponseWriter, r *http.Request, state func(held) held) {
	read := parsed
	if r.Header.Get("Content-Type") == "application/x-protobuf" {
		read = unmarshalled
	}
	found, err := read(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		next := state(found)
		if err = t.store.replace(next); err == nil {
			t.held = next
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	status := http.StatusBadRequest
	if errors.Is(err, errLasting) {
		status = http.StatusNotImplemented
	}
	http.Error(w, err.Error(), status)
}

var errLasting = errors.New("no resource has a time to live here")

func parsed(body io.Reader) (held, error) {
	var request struct {
		Resources []json.RawMessage `json:"resources"`
	}
	if err := json.NewDecoder(body).Decode(&request); err != nil {
		return nil, err
	}
	resources := make([]*anypb.Any, len(request.Resources))
	for index, raw := range request.Resources {
		resources[index] = &anypb.Any{}
		if err := protojson.Unmarshal(raw, resources[index]); err != nil {
			return nil, fmt.Errorf("resource %d: %w", index, err)
		}
	}
	return unpacked(resources)
}

func unmarshalled(body io.Reader) (held, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	var response discovery.DiscoveryResponse
	if err := proto.Unmarshal(data, &response); err != nil {
		return nil, err
	}
	return unpacked(response.GetResources())
}

func unpacked(resources []*anypb.Any) (held, error) {
	found := held{}
	for index, wrapped := range resources {
		resource, err := wrapped.UnmarshalNew()
		if err != nil {
			return nil, fmt.Errorf("resource %d: %w", index, err)
		}
		if _, lasting := resource.(*discovery.Resource); lasting {
			return nil, fmt.Errorf("resource %d: %w", index, errLasting)
		}
		typeURL, name := wrapped.GetTypeUrl(), cache.GetResourceName(resource)
		if name == "" {
			return nil, fmt.Errorf("resource %d: %w", index, errors.New("no name"))
		}
		if found[typeURL] == nil {
			found[typeURL] = map[string]types.Resource{}
		}
		if _, twice := found[typeURL][name]; twice {
			return nil, fmt.Errorf("resource %d: %s %s is there twice", index, typeURL, name)
		}
		found[typeURL][name] = resource
	}
	return found, nil
}

func merged(old, changes held) held {
	next := maps.Clone(old)
	if next == nil {
		next = held{}
	}
	for typeURL, resources := range changes {
		all := maps.Clone(next[typeURL])
		if all == nil {
			all = map[string]types.Resource{}
		}
		maps.Copy(all, resources)
		next[typeURL] = all
	}
	return next
}

// sorted gives names in a fixed order: what is made from them has no chance in it.
func sorted[T any](of map[string]T) []string {
	return slices.Sorted(maps.Keys(of))
}
