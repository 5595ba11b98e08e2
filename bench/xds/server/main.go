// The server that others are measured against: go-control-plane as it comes, with its linear cache
// (one set of resources for all nodes) or its snapshot cache (one snapshot a node), all variants of
// the protocol on one port.
//
// State comes in over HTTP, see adapter.go. The ports that were chosen are printed as one line of
// JSON; it ends at SIGTERM or SIGINT.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"

	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	extensionservice "github.com/envoyproxy/go-control-plane/envoy/service/extension/v3"
	listenerservice "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservice "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	runtimeservice "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	xds "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

func main() {
	kind := flag.String("cache", "linear", "linear or snapshot")
	listen := flag.String("listen", "127.0.0.1:0", "where xDS is served")
	adapter := flag.String("adapter", "127.0.0.1:0", "where HTTP requests that set the state are taken")
	cert := flag.String("cert", "", "PEM file: the server's certificate; without it there is no TLS")
	key := flag.String("key", "", "PEM file: its key")
	ca := flag.String("ca", "", "PEM file: who signs clients' certificates; with it each client needs one")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("not an option: %s", flag.Arg(0))
	}
	if err := run(*kind, *listen, *adapter, *cert, *key, *ca); err != nil {
		log.Fatal(err)
	}
}

func run(kind, listen, adapter, cert, key, ca string) error {
	fresh, err := chosen(kind)
	if err != nil {
		return err
	}
	var options []grpc.ServerOption
	if cert != "" {
		config, err := secured(cert, key, ca)
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	t := &target{address: listen, options: options, fresh: fresh}
	if err := t.start(); err != nil {
		return err
	}
	control, err := net.Listen("tcp", adapter)
	if err != nil {
		return err
	}
	ports := map[string]string{"listen": t.address, "adapter": control.Addr().String()}
	if err := json.NewEncoder(os.Stdout).Encode(ports); err != nil {
		return err
	}
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server := &http.Server{Handler: t.handler()}
	context.AfterFunc(ended, func() { _ = server.Close() })
	if err := server.Serve(control); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	t.stop()
	return nil
}

func secured(cert, key, ca string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it", ca)
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, nil
}

// target is one gRPC server with one cache. A restart replaces both: the port and the state stay,
// and all that the old ones knew of streams, versions and nonces is gone, as with a new process.
type target struct {
	address string
	options []grpc.ServerOption
	fresh   func() store

	mu       sync.Mutex // guards what follows
	held     held
	store    store
	server   *grpc.Server
	cancel   context.CancelFunc
	serveEnd chan struct{}
}

// start fills in the port of the address. The caller holds the lock, or is alone.
func (t *target) start() error {
	listener, err := net.Listen("tcp", t.address)
	if err != nil {
		return err
	}
	t.address = listener.Addr().String()
	t.store = t.fresh()
	if err := t.store.replace(t.held); err != nil {
		return errors.Join(err, listener.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.cancel = cancel
	t.server = grpc.NewServer(t.options...)
	services(t.server, xds.NewServer(ctx, t.store, t.store.callbacks(), sotw.WithOrderedADS()))
	t.serveEnd = make(chan struct{})
	go func(server *grpc.Server, end chan struct{}) {
		defer close(end)
		if err := server.Serve(listener); err != nil {
			log.Printf("serving ended: %v", err)
		}
	}(t.server, t.serveEnd)
	return nil
}

// stop ends every stream.
func (t *target) stop() {
	t.cancel()
	t.server.Stop()
	<-t.serveEnd
}

func services(registrar grpc.ServiceRegistrar, server xds.Server) {
	discovery.RegisterAggregatedDiscoveryServiceServer(registrar, server)
	clusterservice.RegisterClusterDiscoveryServiceServer(registrar, server)
	endpointservice.RegisterEndpointDiscoveryServiceServer(registrar, server)
	listenerservice.RegisterListenerDiscoveryServiceServer(registrar, server)
	routeservice.RegisterRouteDiscoveryServiceServer(registrar, server)
	routeservice.RegisterScopedRoutesDiscoveryServiceServer(registrar, server)
	routeservice.RegisterVirtualHostDiscoveryServiceServer(registrar, server)
	secretservice.RegisterSecretDiscoveryServiceServer(registrar, server)
	runtimeservice.RegisterRuntimeDiscoveryServiceServer(registrar, server)
	extensionservice.RegisterExtensionConfigDiscoveryServiceServer(registrar, server)
}
