package main

import (
	"crypto/tls"
	"os"
)

// Reads into a buffer that is on the stack of a new goroutine, which Read makes grow and so moves.
func main() {
	connection, err := tls.Dial("tcp", os.Args[1], &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		panic(err)
	}
	connection.Write([]byte("on the stack"))
	done := make(chan bool)
	go func() {
		var buffer [64]byte
		count, _ := connection.Read(buffer[:])
		done <- string(buffer[:count]) == "on the stack"
	}()
	if !<-done {
		os.Exit(1)
	}
}
