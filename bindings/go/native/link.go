//go:build think_link

package native

/*
#cgo CFLAGS: -DTHINK_GO_LINK
#cgo pkg-config: think
*/
import "C"
