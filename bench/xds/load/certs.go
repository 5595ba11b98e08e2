package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// keys gives each connection its credentials. There is no cache of TLS sessions, as agents that were
// restarted have none: each connection is a whole handshake.
type keys struct {
	base   *tls.Config // nil: no TLS, nor a signer
	signer *tls.Certificate
	made   map[string]tls.Certificate
}

func newKeys(o options) (*keys, error) {
	k := &keys{made: map[string]tls.Certificate{}}
	if o.ca == "" {
		return k, nil
	}
	authority, err := os.ReadFile(o.ca)
	if err != nil {
		return nil, err
	}
	k.base = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
	if !k.base.RootCAs.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s: no certificate in it", o.ca)
	}
	signer, err := tls.LoadX509KeyPair(o.ca, o.caKey)
	k.signer = &signer
	return k, err
}

// prepare makes the certificates of these nodes, so that it takes no time later.
func (k *keys) prepare(nodes []string) error {
	if k.base == nil {
		return nil
	}
	for _, node := range nodes {
		if _, there := k.made[node]; !there {
			made, err := k.sign(node)
			if err != nil {
				return err
			}
			k.made[node] = made
		}
	}
	return nil
}

// sign makes a certificate with the subject that kubelets have.
func (k *keys) sign(node string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	bytes, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, k.signer.Leaf, &key.PublicKey, k.signer.PrivateKey)
	return tls.Certificate{Certificate: [][]byte{bytes}, PrivateKey: key}, err
}

// of may be called by several goroutines while no other method is.
func (k *keys) of(node string) (credentials.TransportCredentials, error) {
	if k.base == nil {
		return insecure.NewCredentials(), nil
	}
	own, there := k.made[node]
	if !there {
		return nil, errors.New("no certificate was made for " + node)
	}
	config := k.base.Clone()
	config.Certificates = []tls.Certificate{own}
	return credentials.NewTLS(config), nil
}
