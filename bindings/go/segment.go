package think

import (
	"unsafe"

	"libthink/think/native"
)

// Segment is a run of cached tokens for the whole batch. It refers to the buffers that hold the rows.
type Segment struct {
	raw            native.Segment
	rows           [2]unsafe.Pointer // keys and values in Go memory
	first, lengths []int32
	slots          int
	capacity       int // of dense segments in Go memory
	compact        *Compact
	cache          *Cache
	version        int
	err            error
}

// DenseSegment describes rows in slices: key [slots][KV heads][capacity][key channels] and value the same, of which the first lengths[slot] tokens are there.
func DenseSegment[T Element](plan *Plan, key, value []T, capacity int, lengths []int32) Segment {
	slots, heads := len(lengths), plan.heads()
	s := Segment{slots: slots, capacity: capacity, first: make([]int32, slots), lengths: append([]int32(nil), lengths...)}
	s.raw.KeyDtype, s.raw.ValueDtype = dtypeOf[T](), dtypeOf[T]()
	for side, rows := range [][]T{key, value} {
		name, channels := [2]string{"key", "value"}[side], plan.channels(int32(side))
		if needed := slots * heads * capacity * channels; len(rows) < needed || needed <= 0 {
			s.err = refused("%s has %d elements, %d slots of %d rows need %d", name, len(rows), slots, capacity, needed)
			return s
		}
		s.rows[side] = unsafe.Pointer(&rows[0])
		row := int64(channels) * int64(unsafe.Sizeof(rows[0]))
		stride := [3]int64{int64(heads*capacity) * row, int64(capacity) * row, row}
		if side == Keys {
			s.raw.KeyStride = stride
		} else {
			s.raw.ValueStride = stride
		}
	}
	for _, length := range lengths {
		if length < 0 || int(length) > capacity {
			s.err = refused("lengths %v do not fit into %d rows", lengths, capacity)
		}
	}
	return s
}

// RawSegment is one of so many slots whose fields the caller has filled, with addresses of a device or of C memory: pages, other layouts, bases of one's own.
func RawSegment(raw native.Segment, slots int) Segment { return Segment{raw: raw, slots: slots} }

// Raw gives the fields of a segment. Addresses of Go memory are not among them.
func (s Segment) Raw() native.Segment { return s.raw }

// Causal is a segment to whose last rows the queries belong: each sees those up to its own.
func (s Segment) Causal() Segment {
	s.raw.Flags |= SegmentCausal
	return s
}

// Part is the same dense rows, but only count of each slot from first on.
func (s Segment) Part(first, count int) Segment {
	if s.err != nil {
		return s
	}
	if !s.dense() || first < 0 || count < 0 || first > s.capacity-count {
		s.err = refused("rows %d .. %d of %d", first, first+count, s.capacity)
		return s
	}
	s.first, s.lengths = filled(s.slots, int32(first)), filled(s.slots, int32(count))
	return s
}

func (s Segment) dense() bool { return s.rows[Keys] != nil }

// mustBeDense is asked by what reads the lengths of its source.
func (s Segment) mustBeDense(f *frame) bool {
	f.fail(s.err)
	if !s.dense() {
		f.fail(refused("a segment of DenseSegment is needed"))
	}
	return f.err == nil
}

func filled(count int, with int32) []int32 {
	made := make([]int32, count)
	for at := range made {
		made[at] = with
	}
	return made
}

// Basis is what compact rows mean: which channels are stored and how the dropped ones are predicted, for every slot and KV head.
type Basis struct {
	raw    *native.Basis
	memory *memory
	side   int32
	slots  int
	heads  int
}

// BasisSize is (bytes, alignment) of the bases of so many slots.
func (p *Plan) BasisSize(side int32, slots int) (int64, int64, error) {
	var f frame
	defer f.close()
	answer := new([2]int64)
	plan := f.hold(p, &p.handle)
	if f.err != nil {
		return 0, 0, f.err
	}
	err := native.Think_basis_size(plan, side, int32(slots), address(&f, &answer[0]), address(&f, &answer[1]))
	return answer[0], answer[1], err
}

// NewBasis makes an empty basis, which Select and Fit write.
func (p *Plan) NewBasis(side int32, slots int) (*Basis, error) {
	bytes, _, err := p.BasisSize(side, slots)
	if err != nil {
		return nil, err
	}
	m, err := newMemory("basis", bytes)
	if err != nil {
		return nil, err
	}
	b := &Basis{raw: native.NewBasis(), memory: m, side: side, slots: slots, heads: p.heads()}
	var f frame
	defer f.close()
	plan, at, to := f.hold(p, &p.handle), f.memory(m), address(&f, b.raw)
	if f.err != nil {
		return nil, f.err
	}
	if err := native.Think_basis_bind(plan, side, int32(slots), at, bytes, to); err != nil {
		return nil, err
	}
	return b, nil
}

// Channels of a head: how many are kept, and all of them, the kept ones first.
func (b *Basis) Channels(slot, head int) (int, []int32, error) {
	var f frame
	defer f.close()
	f.memory(b.memory)
	if slot < 0 || slot >= b.slots || head < 0 || head >= b.heads {
		f.fail(refused("no slot %d with head %d", slot, head))
	}
	if f.err != nil {
		return 0, nil, f.err
	}
	at, channels := slot*b.heads+head, int(b.raw.Channels)
	inside := func(array uintptr, elements int) []int32 {
		return unsafe.Slice((*int32)(unsafe.Add(b.memory.at, array-b.memory.raw)), elements)
	}
	kept := inside(b.raw.Kept, b.slots*b.heads)[at]
	return int(kept), append([]int32(nil), inside(b.raw.Index, b.slots*b.heads*channels)[at*channels:][:channels]...), nil
}

// Close frees the memory after the last call that uses it.
func (b *Basis) Close() error { return b.memory.close() }

// Compact is compact rows with their memory and a basis for each side that is pruned.
type Compact struct {
	raw      native.Segment
	format   Format
	memory   *memory
	basis    [2]*Basis
	lengths  []int32
	capacity int
}

// NewCompact makes room for capacity rows (a multiple of 32) of every slot, however wide the heads will be; key and value say which sides get a basis.
func (p *Plan) NewCompact(format *Format, slots, capacity int, key, value bool) (*Compact, error) {
	c := &Compact{format: DefaultFormat(), lengths: make([]int32, max0(slots)), capacity: capacity}
	if format != nil {
		c.format = *format
	}
	heads := p.heads()
	info, err := p.Layout(&c.format, capacity, int64(heads*p.channels(Keys)), int64(heads*p.channels(Values)))
	if err != nil {
		return nil, err
	}
	for side, wanted := range []bool{key, value} {
		if wanted {
			if c.basis[side], err = p.NewBasis(int32(side), slots); err != nil {
				_ = c.closeBases()
				return nil, err
			}
		}
	}
	// one block: keys, values, and the offsets of the heads of both
	offsets := int64(slots*heads*8+63) / 64 * 64
	places := [5]int64{}
	for part, bytes := range []int64{info.KeyPageBytes * int64(slots), info.ValuePageBytes * int64(slots), offsets, offsets} {
		places[part+1] = places[part] + (bytes+63)/64*64
	}
	if c.memory, err = newMemory("compact segment", places[4]); err != nil {
		_ = c.closeBases()
		return nil, err
	}
	or := func(dtype int32) int32 {
		if dtype == 0 {
			return p.problem.CacheDtype
		}
		return dtype
	}
	at := func(part int) uintptr { return c.memory.raw + uintptr(places[part]) }
	c.raw = native.Segment{KeyLayout: c.format.KeyLayout, ValueLayout: c.format.ValueLayout, PageTokens: int32(capacity), KeyDtype: or(c.format.KeyDtype),
		ValueDtype: or(c.format.ValueDtype), Key: at(0), Value: at(1), KeyStride: [3]int64{info.KeyPageBytes}, ValueStride: [3]int64{info.ValuePageBytes},
		KeyHeadOffset: at(2), ValueHeadOffset: at(3)}
	return c, nil
}

func max0(x int) int {
	if x < 0 {
		return 0
	}
	return x
}

// Segment is the rows that are there, for attention.
func (c *Compact) Segment() Segment {
	return Segment{raw: c.raw, slots: len(c.lengths), first: make([]int32, len(c.lengths)), lengths: append([]int32(nil), c.lengths...), compact: c}
}

// Basis of a side; nil if it has none.
func (c *Compact) Basis(side int32) *Basis { return c.basis[side] }

// Close frees the memory after the last call that uses it.
func (c *Compact) Close() error {
	_ = c.closeBases()
	return c.memory.close()
}

func (c *Compact) closeBases() error {
	for _, basis := range c.basis {
		if basis != nil {
			_ = basis.Close()
		}
	}
	return nil
}
