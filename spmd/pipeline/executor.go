package pipeline

import (
	"fmt"
	"slices"

	"lockstep/collective"
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// A Stage is one chunk of layers that this rank holds.
type Stage struct {
	Chunk *model.Chunk
	// Lanes has a step for each of the rank's micro batches, Buffers the flat gradient buffers it names; the sum ends in
	// the first.
	Lanes   []LaneStep
	Buffers []kernels.Tensor
}

// An Executor runs one rank's program. It knows no particular schedule.
type Executor struct {
	device       kernels.Device
	context      *model.Context   // of the first line
	lines        []*model.Context // a micro batch runs in that of its slot, modulo their number
	group        collective.Group
	stages       map[int]*Stage // by chunk
	step         table
	evaluation   table
	records      []slot
	boundaries   []model.Boundary
	exchanged    device.Event   // of the last exchange that was begun
	losses       kernels.Tensor // [micro batches] Float64
	auxiliary    kernels.Tensor // [micro batches, AuxiliaryLosses] Float64, none where there are none
	ahead        Batch          // staging of what a module of multi-token prediction reads: its ids and labels
	microBatches int
	host         Batch   // staging of one micro batch
	local        []int32 // this rank's tokens of it
	documents    []int32
	rows         []int32 // of local ids
	together     [2]*Instruction
	pair         bool // two actions run together
	then         int  // the first layer of the action after, none where there is none
	exchange     Exchange
	once         bool
	training     bool // a training step runs
}

// An Exchange is what a step exchanges with ranks that hold the same weights, beside the work on layers, which are numbered within
// the model. Its methods enqueue work on the stream on which the layer runs, and return at once.
type Exchange interface {
	// Use comes before work on a layer: it waits for the weights. next is the layer that follows, whose weights may come
	// meanwhile, or negative.
	Use(s device.Stream, layer, next int)
	// Begin comes before gradients of a layer are written that go to buckets of a kind.
	Begin(s device.Stream, layer int, kind model.BucketKind)
	// Complete comes when a micro batch of this rank has added its gradients of a layer to buckets of a kind. After the last one
	// they are in the first of a stage's buffers, and nothing in the rest of the step touches them.
	Complete(s device.Stream, layer int, kind model.BucketKind, microBatch int)
}

// A table is a program with its transfers bound to memory.
type table struct {
	Program
	transfers [][]collective.Transfer // by exchange
	events    []device.Event          // of the exchanges
}

// A slot holds what one micro batch in flight needs.
type slot struct {
	records map[int]*model.ChunkRecord // by chunk: one of them is in use, and they share their memory
	batch   model.MicroBatch
}

// A Line is where micro batches run: a context, whose stream runs them, and memory for what they need. Of two lines the Saved
// memory is the same, and the rest each has for itself, so that a pass on the one may go on beside a pass on the other.
type Line struct {
	Context *model.Context
	Memory  model.Memory
}

// A Batch is a micro batch on the host, as model.MicroBatch describes it, but of whole samples, also where ranks share them: T tokens
// of each, [B*T]. Documents are the tokens' documents by their first tokens in the sample. Positions and Documents are nil where
// the plan has none.
type Batch struct{ IDs, Labels, Positions, Documents []int32 }

// A Loader fills a rank's micro batch.
type Loader func(microBatch int, b Batch) error

// Plan is what an Executor needs to be laid out in memory.
type Plan struct {
	// Training and Evaluation are this rank's programs for a training step, and for the forward passes of as many micro batches.
	Training, Evaluation Program
	MicroBatches         int
	Split                bool // from the simulator's Report
	Hidden               int
	Size                 model.Size
	// Recompute says what each layer of the model computes again, see model.Placement.
	Recompute []model.Recompute
	// Positions and Documents say whether micro batches have them.
	Positions, Documents bool
	// PlaceBoundary places what goes from chunk to chunk.
	PlaceBoundary func(a *kernels.Arena) model.Boundary
	// PlaceExperts places what the layers with experts share in a micro batch, AuxiliaryLosses is how many losses each has
	// besides the first; nil and 0 where there are none.
	PlaceExperts    func(a *kernels.Arena) model.ExpertBatch
	AuxiliaryLosses int
	// Predictors is the number of modules of multi-token prediction.
	Predictors int
	// Exchange may be nil. Once says that it takes each micro batch's gradients away before the next one's come, so that those
	// overwrite them, but for the embedding's touched rows.
	Exchange Exchange
	Once     bool
}

// NewExecutor lays out the records of the plan's programs in the memory of the lines: run it first with measuring arenas and no
// stages' buffers, then with real ones. group has the ranks of the pipeline, in the order of the stages, and runs the exchanges.
func NewExecutor(k kernels.Device, lines []Line, group collective.Group, stages map[int]*Stage, p Plan) (*Executor, error) {
	e := &Executor{device: k, context: lines[0].Context, group: group, stages: stages, microBatches: p.MicroBatches, exchange: p.Exchange, once: p.Once}
	for _, line := range lines {
		e.lines = append(e.lines, line.Context)
		line.Context.Progress = e
	}
	mem := lines[0].Memory
	e.losses = mem.Saved.Tensor(device.Float64, p.MicroBatches)
	if p.AuxiliaryLosses > 0 {
		e.auxiliary = mem.Saved.Tensor(device.Float64, p.MicroBatches, p.AuxiliaryLosses)
	}
	e.host = newBatch(p)
	e.local, e.rows = make([]int32, p.Size.Tokens()), make([]int32, p.Size.Tokens())
	e.ahead = Batch{IDs: make([]int32, len(e.host.IDs)), Labels: make([]int32, len(e.host.IDs))}
	if p.Documents {
		e.documents = make([]int32, kernels.NewTensor(nil, 0, device.Int32, p.Size.DocumentShape()...).Len())
	}
	for range max(p.Training.Buffers, p.Evaluation.Buffers) {
		e.boundaries = append(e.boundaries, p.PlaceBoundary(mem.Saved))
	}
	e.step, e.evaluation = e.bind(p.Training), e.bind(p.Evaluation)
	return e, e.placeRecords(p, lines)
}

// bind binds the transfers of a program to the buffers.
func (e *Executor) bind(p Program) table {
	t := table{Program: p, events: make([]device.Event, len(p.Exchanges))}
	for _, exchange := range p.Exchanges {
		var list []collective.Transfer
		for _, x := range exchange {
			list = append(list, collective.Transfer{Peer: x.Stage, Buf: e.boundaries[x.Buffer].Region(), Receive: x.Receive})
		}
		t.transfers = append(t.transfers, list)
	}
	return t
}

// placeRecords places the slots, and in each the records of the chunks whose micro batches it holds, one over the other.
func (e *Executor) placeRecords(p Plan, lines []Line) error {
	chunks := make([][]int, max(p.Training.Slots, p.Evaluation.Slots))
	for _, program := range []Program{p.Training, p.Evaluation} {
		for _, x := range program.Instructions {
			if x.Exchange != none {
				continue
			}
			if e.stages[x.Chunk] == nil {
				return fmt.Errorf("pipeline: action %v is for a chunk that this rank does not hold", x.Action)
			}
			if !slices.Contains(chunks[x.Slot], x.Chunk) {
				chunks[x.Slot] = append(chunks[x.Slot], x.Chunk)
			}
		}
	}
	for i, held := range chunks {
		mem := lines[i%len(lines)].Memory
		placement := model.Placement{Memory: mem, Layers: p.Recompute, Split: p.Split}
		s := slot{records: map[int]*model.ChunkRecord{}, batch: placeBatch(p, mem.Saved)}
		mark := mem.Saved.Mark()
		for _, chunk := range held {
			mem.Saved.Release(mark)
			s.records[chunk] = e.stages[chunk].Chunk.NewRecord(e.device, p.Size, p.Hidden, &placement)
			mem.Saved.Reserve()
		}
		e.records = append(e.records, s)
	}
	return nil
}

// newBatch allocates a batch on the host, of whole samples.
func newBatch(p Plan) Batch {
	numbers := func(there bool) []int32 {
		if !there {
			return nil
		}
		return make([]int32, p.Size.Batch*p.Size.Whole())
	}
	return Batch{IDs: numbers(true), Labels: numbers(true), Positions: numbers(p.Positions), Documents: numbers(p.Documents)}
}

// placeBatch places the operands of a micro batch that a Batch is written to.
func placeBatch(p Plan, a *kernels.Arena) model.MicroBatch {
	numbers := func(there bool, shape ...int) kernels.Tensor {
		if !there {
			return kernels.Tensor{}
		}
		return a.Tensor(device.Int32, shape...)
	}
	tokens, rows, length := p.Size.Tokens(), p.Size.Batch, p.Size.Sequence
	b := model.MicroBatch{IDs: numbers(true, tokens), Labels: numbers(true, tokens), Rows: numbers(true, tokens),
		Positions: numbers(p.Positions, rows, length), Documents: numbers(p.Documents, p.Size.DocumentShape()...)}
	for range p.Predictors {
		b.Ahead = append(b.Ahead, model.Ahead{IDs: numbers(true, tokens), Rows: numbers(true, tokens), Labels: numbers(true, tokens)})
	}
	if p.PlaceExperts != nil {
		b.Experts = p.PlaceExperts(a)
	}
	return b
}

// Losses returns the tensor that Run and Evaluate leave the micro batches' losses in, on the rank with the last chunk: [micro
// batches] Float64, each a sum over tokens.
func (e *Executor) Losses() kernels.Tensor { return e.losses }

// AuxiliaryLosses returns the tensor that Run leaves the other losses in: [micro batches, Plan.AuxiliaryLosses] Float64, to be
// added up by kind; none where there are none. Those of other ranks' chunks are zero.
func (e *Executor) AuxiliaryLosses() kernels.Tensor { return e.auxiliary }
