package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
)

// Posts its second argument, and a body of a million bytes, to the server named in the first.
func main() {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, body := range [][]byte{[]byte(os.Args[2]), bytes.Repeat([]byte("x"), 1000000)} {
		answer, err := client.Post(os.Args[1], "text/plain", bytes.NewReader(body))
		if err != nil {
			panic(err)
		}
		text, _ := io.ReadAll(answer.Body)
		fmt.Println(len(text))
	}
}
