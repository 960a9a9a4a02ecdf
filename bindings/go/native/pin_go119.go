//go:build !go1.21

package native

import "runtime"

// Pinner keeps Go memory where it is while C knows its address. Before Go 1.21 that takes no more than keeping it alive on the heap, which the collector of
// those versions does not move.
type Pinner struct{ held []any }

// Pin holds what pointer points to until Unpin.
func (p *Pinner) Pin(pointer any) { p.held = append(p.held, pointer) }

// Unpin lets everything go.
func (p *Pinner) Unpin() {
	runtime.KeepAlive(p.held)
	p.held = nil
}
