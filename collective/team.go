package collective

// A team is those members of a group that run an algorithm with one another: all of them, or those of one level of a
// two-level algorithm. Algorithms are methods of a team and count members by their position in it.
type team struct {
	g        *group
	members  []int // their positions in the group, in order; nil for all
	me, size int
	base     int   // added to the numbers of steps, so that two levels are told apart
	offsets  []int // where the parts of a buffer begin that the team cuts for itself, and the end of the last
}

// The numbers of steps on the wire: the first of each phase. An algorithm adds the number of the step within the phase.
const (
	stepFoldIn  = 0x0_0000
	stepReduce  = 0x1_0000
	stepGather  = 0x2_0000
	stepFoldOut = 0x3_0000

	levelLocal  = 0x10_0000
	levelAcross = 0x20_0000
	levelReturn = 0x30_0000
)

// position returns a member's position in the group.
func (t *team) position(member int) int {
	if t.members == nil {
		return member
	}
	return t.members[member]
}

// wrap returns the member that is n after member.
func (t *team) wrap(member int) int { return (member%t.size + t.size) % t.size }

func (t *team) link(member int) (link, error) { return t.g.link(t.position(member)) }

// send starts a message of size bytes with data, which must not change until flush returns.
func (t *team) send(w *work, step, to, size int, data []byte) error {
	l, err := t.link(to)
	if err != nil {
		return err
	}
	l.send(w.header(t.base+step, size), data)
	return nil
}

// more continues the message that send has started.
func (t *team) more(to int, data []byte) error {
	l, err := t.link(to)
	if err != nil {
		return err
	}
	l.more(data)
	return nil
}

// flush waits until what was sent to a member has left its memory.
func (t *team) flush(to int) error {
	l, err := t.link(to)
	if err != nil {
		return err
	}
	return l.flush()
}

// receive waits for a message of size bytes, whose data is then read.
func (t *team) receive(w *work, step, from, size int) error {
	l, err := t.link(from)
	if err != nil {
		return err
	}
	_, err = l.receive(w.header(t.base+step, size))
	return err
}

func (t *team) read(from int, data []byte) error {
	l, err := t.link(from)
	if err != nil {
		return err
	}
	return l.read(data)
}

// sendTo sends data to a member.
func (t *team) sendTo(w *work, step, to int, data []byte) error {
	if err := t.send(w, step, to, len(data), data); err != nil {
		return err
	}
	return t.flush(to)
}

// receiveFrom receives len(data) bytes from a member.
func (t *team) receiveFrom(w *work, step, from int, data []byte) error {
	if err := t.receive(w, step, from, len(data)); err != nil {
		return err
	}
	return t.read(from, data)
}

// exchange sends out to one member and receives into in from another, or the same, at the same time.
func (t *team) exchange(w *work, step, to int, out []byte, from int, in []byte) error {
	if err := t.send(w, step, to, len(out), out); err != nil {
		return err
	}
	if err := t.receiveFrom(w, step, from, in); err != nil {
		return err
	}
	return t.flush(to)
}

// foldFrom receives a member's version of mine, segment by segment, and folds each into mine.
func (t *team) foldFrom(w *work, step, from int, mine []byte) error {
	if err := t.receive(w, step, from, len(mine)); err != nil {
		return err
	}
	return t.foldRead(w, from, mine)
}

// foldRead is foldFrom for a message whose header has been received.
func (t *team) foldRead(w *work, from int, mine []byte) error {
	segment := w.segment(t.g.segment)
	for len(mine) > 0 {
		part := mine[:min(segment, len(mine))]
		theirs := t.g.scratch.bytes(len(part))
		if err := t.read(from, theirs); err != nil {
			return err
		}
		t.fold(w, from, part, theirs)
		mine = mine[len(part):]
	}
	return nil
}

// segment returns n rounded to whole elements of the reduction, at least one.
func (w *work) segment(n int) int {
	size := w.reduction.DType.Size()
	return max(size, n/size*size)
}

// fold combines another member's elements into mine, in the order of the members.
func (t *team) fold(w *work, from int, mine, theirs []byte) {
	if len(mine) == 0 {
		return
	}
	s := &t.g.scratch
	s.dst = append(s.dst[:0], mine)
	if from < t.me {
		s.src = append(s.src[:0], theirs, mine)
	} else {
		s.src = append(s.src[:0], mine, theirs)
	}
	w.reduction.Fold(s.dst, s.src)
}

// cut cuts n bytes into one part for each member, at borders of elements, and returns where they begin. The first ones are
// one element longer where there is a rest.
func (t *team) cut(n, element int) []int {
	t.offsets = t.offsets[:0]
	elements := n / element
	for i := range t.size + 1 {
		t.offsets = append(t.offsets, (elements/t.size*i+min(i, elements%t.size))*element)
	}
	return t.offsets
}

// A partition says where the members' parts of a buffer are: member i's begins at offsets[first+i*stride] and ends at the
// offset after that one.
type partition struct {
	offsets       []int
	first, stride int
}

// inOrder is the partition whose parts follow one another.
func inOrder(offsets []int) partition { return partition{offsets: offsets, stride: 1} }

// of returns a member's part of the buffer.
func (p partition) of(mem []byte, member int) []byte {
	at := p.first + member*p.stride
	return mem[p.offsets[at]:p.offsets[at+1]]
}

// blocks returns the parts of n members from first on, which may go round the end: then they are two pieces.
func (t *team) blocks(mem []byte, offsets []int, first, n int) (a, b []byte) {
	first = t.wrap(first)
	if end := first + n; end > t.size {
		return mem[offsets[first]:offsets[t.size]], mem[:offsets[end-t.size]]
	}
	return mem[offsets[first]:offsets[first+n]], nil
}
