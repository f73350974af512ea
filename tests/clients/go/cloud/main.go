// A cloud as a stranger writes it: signs nodes, takes their connections, answers what an edge needs, and sends what a
// test tells it.
//
//	cloud -dir FOLDER
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"twinspan.test/peers/link"
)

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	secret      []byte
}

func main() {
	ca, err := newAuthority()
	if err != nil {
		link.Fail("the CA", err)
	}
	server, err := ca.server()
	if err != nil {
		link.Fail("the server's certificate", err)
	}
	hub := &hub{objects: map[string]map[string]interface{}{}}
	files := http.NewServeMux()
	files.HandleFunc("/ca.crt", func(w http.ResponseWriter, _ *http.Request) { w.Write(ca.certificate.Raw) })
	files.HandleFunc("/edge.crt", ca.enrol)
	https := listen(files, &tls.Config{
		Certificates: []tls.Certificate{server}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12,
	})
	pool := x509.NewCertPool()
	pool.AddCert(ca.certificate)
	wss := listen(http.HandlerFunc(hub.connect), &tls.Config{
		Certificates: []tls.Certificate{server}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	})
	link.Tell("listening", map[string]interface{}{"https": https, "hub": wss, "token": ca.token()})
	link.Obey(hub.send)
}

func listen(handler http.Handler, config *tls.Config) string {
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		link.Fail("listening", err)
	}
	server := &http.Server{Handler: handler, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	go server.Serve(listener)
	return listener.Addr().String()
}

// --- certificates ----------------------------------------------------------------------------------

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1024), Subject: pkix.Name{CommonName: "KubeEdge"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageKeyEncipherment,
		IsCA:     true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalECPrivateKey(key)
	return &authority{certificate, key, secret}, err
}

func (a *authority) server() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "KubeEdge", Organization: []string{"KubeEdge"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}, a.certificate, &key.PublicKey, a.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func (a *authority) token() string {
	encode := base64.RawURLEncoding.EncodeToString
	body := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
		encode([]byte(fmt.Sprintf(`{"exp":%d}`, time.Now().Add(time.Hour).Unix())))
	sum := sha256.Sum256(a.certificate.Raw)
	return hex.EncodeToString(sum[:]) + "." + body + "." + encode(a.sign(body))
}

func (a *authority) sign(text string) []byte {
	mac := hmac.New(sha256.New, a.secret)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

func (a *authority) enrol(w http.ResponseWriter, r *http.Request) {
	jwt := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	cut := strings.LastIndex(jwt, ".")
	if cut < 0 || base64.RawURLEncoding.EncodeToString(a.sign(jwt[:cut])) != jwt[cut+1:] {
		http.Error(w, "bad token", http.StatusUnauthorized)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	request, err := x509.ParseCertificateRequest(body)
	if err == nil {
		err = request.CheckSignature()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: request.Subject,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.certificate, request.PublicKey, a.key)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	link.Tell("enrolled", map[string]interface{}{"subject": request.Subject.String()})
	w.Write(der)
}

// --- the hub ---------------------------------------------------------------------------------------

type hub struct {
	mutex   sync.Mutex
	conn    *link.Conn
	objects map[string]map[string]interface{}
	version int
}

func (h *hub) send(m link.Message) error {
	h.mutex.Lock()
	conn := h.conn
	h.mutex.Unlock()
	if conn == nil {
		return fmt.Errorf("no node is connected")
	}
	return conn.Send(m)
}

func (h *hub) connect(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		link.Tell("refused", map[string]interface{}{"cause": err.Error()})
		return
	}
	conn := link.NewConn(ws)
	h.mutex.Lock()
	h.conn = conn
	h.mutex.Unlock()
	link.Tell("connected", map[string]interface{}{
		"node": r.Header.Get("node_id"), "project": r.Header.Get("project_id"), "use": r.Header.Get("ConnectionUse"),
		"subject": r.TLS.PeerCertificates[0].Subject.String(), "path": r.URL.Path,
	})
	for {
		message, err := conn.Receive()
		if err != nil {
			link.Tell("closed", map[string]interface{}{"cause": err.Error()})
			return
		}
		link.Tell("message", map[string]interface{}{"message": message, "read": h.understood(message)})
		if answer := h.answer(message); answer != nil {
			if err := conn.Send(*answer); err != nil {
				link.Tell("closed", map[string]interface{}{"cause": err.Error()})
				return
			}
		}
	}
}

// understood parses what came into typed documents, as a program in Go works with it.
func (h *hub) understood(m link.Message) map[string]interface{} {
	facts := map[string]interface{}{}
	if !strings.HasSuffix(m.Route.Resource, "/twin/edge_updated") {
		return facts
	}
	var update link.TwinUpdate
	if err := m.Into(&update); err != nil {
		link.Fail("a twin update cannot be read", err)
	}
	for name, twin := range update.Twin {
		if twin != nil && twin.Actual != nil && twin.Actual.Value != nil {
			facts[name] = *twin.Actual.Value
		}
	}
	return facts
}

func (h *hub) answer(m link.Message) *link.Message {
	switch {
	case m.Route.Source == "twin" && strings.HasPrefix(m.Route.Resource, "device/"):
		route := link.Route{Source: "devicecontroller", Group: "twin", Operation: "response", Resource: "twin"}
		answer := link.New(m.Header.ID, route, "OK")
		return &answer
	case m.Route.Source == "edged" && m.Route.Group == "meta":
		answer := link.New(m.Header.ID, link.Route{
			Source: "edgecontroller", Group: "resource", Operation: "response", Resource: m.Route.Resource,
		}, h.object(m))
		return &answer
	}
	return nil // membership/detail is never answered, as KubeEdge's cloud does not
}

func (h *hub) object(m link.Message) link.ObjectResp {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	key := strings.Replace(m.Route.Resource, "/nodepatch/", "/node/", 1)
	if m.Route.Operation == "insert" || m.Route.Operation == "update" {
		var object map[string]interface{}
		if err := m.Into(&object); err != nil {
			link.Fail("an object cannot be read", err)
		}
		h.version++
		metadata, _ := object["metadata"].(map[string]interface{})
		metadata["uid"], metadata["resourceVersion"] = "uid-"+key, fmt.Sprint(h.version)
		h.objects[key] = object
	}
	object := h.objects[key]
	if object == nil {
		return link.ObjectResp{Err: &link.Failure{ErrStatus: link.Status{
			Metadata: map[string]interface{}{}, Status: "Failure", Reason: "NotFound", Code: 404,
			Message: "\"" + key + "\" <not found>",
		}}}
	}
	return link.ObjectResp{Object: object}
}
