package pipeline

import "lockstep/spmd/model"

// lookAhead writes what the modules of multi-token prediction read of the micro batch that has been loaded. Module k takes for
// each token the one k+1 further, and as its label the label of that. Where the sample ends before, or the document where
// attention stops at its end, the token has no label there, and its id does not matter.
func (e *Executor) lookAhead(b *model.MicroBatch, touched *model.Touched) error {
	for k := range b.Ahead {
		e.shift(k + 1)
		if err := touched.Rows(e.rows, e.cut(e.ahead.IDs)); err != nil {
			return err
		}
		e.write(b.Ahead[k].IDs, e.local)
		e.write(b.Ahead[k].Rows, e.rows)
		e.write(b.Ahead[k].Labels, e.cut(e.ahead.Labels))
	}
	return nil
}

// shift fills e.ahead with the ids and labels of the tokens n further, which another rank may have.
func (e *Executor) shift(n int) {
	length, documents := e.context.Size.Whole(), e.host.Documents
	for i, id := range e.host.IDs {
		further := i + n
		if i%length+n >= length || documents != nil && documents[further] != documents[i] {
			e.ahead.IDs[i], e.ahead.Labels[i] = id, -1
			continue
		}
		e.ahead.IDs[i], e.ahead.Labels[i] = e.host.IDs[further], e.host.Labels[further]
	}
}
