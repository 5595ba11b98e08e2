package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

const method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

// gone is a resource that no server has.
const gone = "bench-gone"

var marker = []byte("XDSLOAD1")

// rawCodec hands over messages as bytes: what this client does with them costs less than decoding
// them, and it shares its processors with the server that is measured.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	into := v.(*[]byte)
	*into = slices.Grow((*into)[:0], data.Len())[:data.Len()]
	data.CopyTo(*into)
	return nil
}

// nodeField is the node of a request; it stands in the first one of a stream only.
func nodeField(id string) []byte {
	var inner []byte
	inner = protowire.AppendTag(inner, 1, protowire.BytesType)
	inner = protowire.AppendString(inner, id)
	inner = protowire.AppendTag(inner, 2, protowire.BytesType) // cluster
	inner = protowire.AppendString(inner, "bench")
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), inner)
}

// subscription is the first DeltaDiscoveryRequest of a type, without the node: everything, and what
// is held already (name → version). It is the same for all streams.
func subscription(typeURL string, held map[string]string) []byte {
	var b []byte
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendString(b, typeURL)
	b = protowire.AppendTag(b, 3, protowire.BytesType) // resource_names_subscribe
	b = protowire.AppendString(b, "*")
	names := make([]string, 0, len(held))
	for name := range held {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		var entry []byte
		entry = protowire.AppendTag(entry, 1, protowire.BytesType)
		entry = protowire.AppendString(entry, name)
		entry = protowire.AppendTag(entry, 2, protowire.BytesType)
		entry = protowire.AppendString(entry, held[name])
		b = protowire.AppendTag(b, 5, protowire.BytesType) // initial_resource_versions
		b = protowire.AppendBytes(b, entry)
	}
	return b
}

func ack(typeURL, nonce []byte) []byte {
	b := make([]byte, 0, len(typeURL)+len(nonce)+8)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendBytes(b, typeURL)
	b = protowire.AppendTag(b, 6, protowire.BytesType) // response_nonce
	return protowire.AppendBytes(b, nonce)
}

// resource is one of a response. index and generation are 0 where it has no marker.
type resource struct {
	name, version     []byte
	marked            bool
	index, generation uint32
}

// response is a DeltaDiscoveryResponse, read into slices of its bytes.
type response struct {
	typeURL, nonce []byte
	resources      []resource
	removed        [][]byte // names
}

func (r *response) read(frame []byte) error {
	*r = response{resources: r.resources[:0], removed: r.removed[:0]}
	return fields(frame, func(number protowire.Number, value []byte) error {
		switch number {
		case 2:
			var one resource
			if err := one.read(value); err != nil {
				return err
			}
			r.resources = append(r.resources, one)
		case 4:
			r.typeURL = value
		case 5:
			r.nonce = value
		case 6:
			r.removed = append(r.removed, value)
		}
		return nil
	})
}

func (r *resource) read(message []byte) error {
	return fields(message, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			r.version = value
		case 2: // Any: its bytes hold those of the resource as they are
			if at := bytes.Index(value, marker); at >= 0 && len(value) >= at+len(marker)+8 {
				numbers := value[at+len(marker):]
				r.marked = true
				r.index = binary.LittleEndian.Uint32(numbers)
				r.generation = binary.LittleEndian.Uint32(numbers[4:])
			}
		case 3:
			r.name = value
		}
		return nil
	})
}

// fields calls `see` with each length-delimited field; all that is read here is of that kind.
func fields(message []byte, see func(protowire.Number, []byte) error) error {
	for len(message) > 0 {
		number, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return fmt.Errorf("tag: %w", protowire.ParseError(size))
		}
		message = message[size:]
		if kind != protowire.BytesType {
			size = protowire.ConsumeFieldValue(number, kind, message)
			if size < 0 {
				return fmt.Errorf("field %d: %w", number, protowire.ParseError(size))
			}
			message = message[size:]
			continue
		}
		value, size := protowire.ConsumeBytes(message)
		if size < 0 {
			return errors.Join(fmt.Errorf("field %d", number), protowire.ParseError(size))
		}
		if err := see(number, value); err != nil {
			return err
		}
		message = message[size:]
	}
	return nil
}
