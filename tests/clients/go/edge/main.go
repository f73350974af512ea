// An edge as a stranger writes it: bootstraps with a token, boots, acknowledges, and sends what a test tells it.
//
//	edge -https HOST:PORT -hub HOST:PORT -node NAME -token TOKEN
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"twinspan.test/peers/link"
)

var (
	httpsAddress = flag.String("https", "", "CloudHub's HTTPS, host:port")
	hubAddress   = flag.String("hub", "", "CloudHub's WebSocket, host:port")
	node         = flag.String("node", "go-edge", "name of this node")
	token        = flag.String("token", "", "join token")
)

func main() {
	flag.Parse()
	ca, identity, err := bootstrap()
	if err != nil {
		link.Fail("bootstrap", err)
	}
	link.Tell("joined", nil)
	conn, err := dial(ca, identity)
	if err != nil {
		link.Fail("connecting", err)
	}
	link.Tell("connected", nil)
	go beat(conn)
	go link.Obey(conn.Send)
	boot(conn)
	read(conn)
}

// --- bootstrap -------------------------------------------------------------------------------------

func bootstrap() (*x509.CertPool, tls.Certificate, error) {
	parts := strings.SplitN(*token, ".", 2)
	if len(strings.Split(*token, ".")) != 4 {
		return nil, tls.Certificate{}, errors.New("a token has four parts")
	}
	blind := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // what comes is checked by its hash
	}}
	ca, err := get(blind, "/ca.crt", nil, nil)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	if sum := sha256.Sum256(ca); hex.EncodeToString(sum[:]) != parts[0] {
		return nil, tls.Certificate{}, errors.New("the CA is not the token's")
	}
	authority, err := x509.ParseCertificate(ca)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	identity, err := enrol(pool, parts[1])
	return pool, identity, err
}

func enrol(pool *x509.CertPool, jwt string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	subject := pkix.Name{
		Country:      []string{"CN"},
		Organization: []string{"system:nodes"},
		Locality:     []string{"Hangzhou"},
		Province:     []string{"Zhejiang"},
		CommonName:   "system:node:" + *node,
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}}
	usages, err := json.Marshal([]x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := get(client, "/edge.crt", request, map[string]string{
		"Authorization": "Bearer " + jwt,
		"NodeName":      *node,
		"ExtKeyUsages":  string(usages),
	})
	if err != nil {
		return tls.Certificate{}, err
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func get(client *http.Client, path string, body []byte, headers map[string]string) ([]byte, error) {
	request, err := http.NewRequest(http.MethodGet, "https://"+*httpsAddress+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", path, response.StatusCode, data)
	}
	return data, err
}

// --- the link --------------------------------------------------------------------------------------

func dial(ca *x509.CertPool, identity tls.Certificate) (*link.Conn, error) {
	dialer := websocket.Dialer{
		TLSClientConfig: &tls.Config{
			RootCAs: ca, Certificates: []tls.Certificate{identity}, MinVersion: tls.VersionTLS12,
		},
		HandshakeTimeout: 30 * time.Second,
	}
	const project = "e632aba927ea4ac2b575ec1603d56f10"
	headers := http.Header{}
	headers.Set("node_id", *node)
	headers.Set("project_id", project)
	headers.Set("ConnectionUse", "msg")
	ws, response, err := dialer.Dial(fmt.Sprintf("wss://%s/%s/%s/events", *hubAddress, project, *node), headers)
	if err != nil {
		if response != nil {
			err = fmt.Errorf("%w: %s", err, response.Status)
		}
		return nil, err
	}
	return link.NewConn(ws), nil
}

func beat(conn *link.Conn) {
	route := link.Route{Source: "websocket", Group: "resource", Operation: "keepalive", Resource: "node"}
	for {
		if conn.Send(link.New("", route, "ping")) != nil {
			return
		}
		time.Sleep(15 * time.Second)
	}
}

func edged(operation, resource string, content interface{}) link.Message {
	route := link.Route{Source: "edged", Group: "meta", Operation: operation, Resource: resource}
	return link.New("", route, content)
}

func boot(conn *link.Conn) {
	question, _ := json.Marshal(map[string]interface{}{
		"event_type": "group_membership_event", "event_id": "e", "group_id": *node,
		"operation": "detail", "timestamp": time.Now().UnixNano() / 1e6,
	})
	twin := link.Route{Source: "twin", Group: "resource", Operation: "get", Resource: "membership/detail"}
	object := map[string]interface{}{
		"kind": "Node", "apiVersion": "v1",
		"metadata": map[string]interface{}{
			"name": *node, "creationTimestamp": nil,
			"labels":      map[string]string{"node-role.kubernetes.io/edge": "", "kubernetes.io/hostname": *node},
			"annotations": map[string]string{"note": "<a> & b"},
		},
		"spec": map[string]interface{}{}, "status": map[string]interface{}{},
	}
	for _, message := range []link.Message{
		link.New("", twin, string(question)),
		edged("query", "kube-node-lease/lease/"+*node, nil),
		edged("insert", "null/node/"+*node, object),
		edged("patch", "null/nodepatch/"+*node, "{}"),
	} {
		if err := conn.Send(message); err != nil {
			link.Fail("boot", err)
		}
	}
}

func read(conn *link.Conn) {
	for {
		message, err := conn.Receive()
		if err != nil {
			link.Tell("closed", map[string]interface{}{"cause": err.Error()})
			return
		}
		link.Tell("message", map[string]interface{}{"message": message, "read": understood(message)})
		if answer := acknowledgement(message); answer != nil {
			if err := conn.Send(*answer); err != nil {
				link.Fail("acknowledging", err)
			}
		}
	}
}

// understood parses what came into typed documents, as a program in Go works with it.
func understood(m link.Message) map[string]interface{} {
	facts := map[string]interface{}{}
	parts := strings.Split(m.Route.Resource, "/")
	switch {
	case m.Route.Resource == "membership":
		var update link.Membership
		check(m.Into(&update))
		facts["added"], facts["removed"] = len(update.Added), len(update.Removed)
	case m.Header.ParentID != "" && len(parts) == 3 && parts[1] != "configmap" && parts[1] != "secret":
		var answer link.ObjectResp
		if m.Into(&answer) == nil && answer.Err != nil {
			facts["reason"], facts["code"] = answer.Err.ErrStatus.Reason, answer.Err.ErrStatus.Code
		}
		facts["has_object"] = answer.Object != nil
	}
	return facts
}

func check(err error) {
	if err != nil {
		link.Fail("a message cannot be read", err)
	}
}

func acknowledgement(m link.Message) *link.Message {
	operation := m.Route.Operation
	stored := m.Route.Group == "resource" || m.Route.Group == "func"
	isWrite := operation == "insert" || operation == "update" || operation == "delete"
	isNoise := m.Header.ParentID != "" && operation == "response" && strings.Count(m.Route.Resource, "/") == 2
	if !stored || !(isWrite || isNoise) {
		return nil
	}
	route := link.Route{Source: m.Route.Source, Group: m.Route.Group, Operation: "response", Resource: m.Route.Resource}
	kind := strings.Split(m.Route.Resource, "/")
	if isWrite && operation != "update" && len(kind) == 3 && (kind[1] == "device" || kind[1] == "devicemodel") {
		route.Source, route.Group = "meta", "twin"
	}
	answer := link.New(m.Header.ID, route, "OK")
	return &answer
}
