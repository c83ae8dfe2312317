package train

import (
	"lockstep/kernels/device"
	"lockstep/spmd/mesh"
)

// At the end of a step all ranks exchange a report: the losses of their micro batches, the host's part, and the auxiliary losses of
// their micro batches, of which each stage of a pipeline has those of its layers.

// hostReportLen is the length of the host's part of a report: whether the rank was told to stop, and model.Balancing's rounds.
const hostReportLen = 2

// reportWidth is the length of a rank's report.
func (l *Layout) reportWidth() int {
	return l.MyMicroBatches + hostReportLen + l.MyMicroBatches*l.Model.AuxiliaryLosses()
}

// shareReport exchanges the ranks' reports.
func (t *Trainer) shareReport(stop bool) device.Event {
	me, n, width := t.Mesh.Rank, t.MyMicroBatches, t.reportWidth()
	mine := t.placed.report.Narrow(0, me, me+1).Reshape(width)
	t.Device.Copy(t.Stream, mine.Narrow(0, 0, n), t.placed.executor.Losses())
	t.host.mine = [hostReportLen]float64{}
	if stop {
		t.host.mine[0] = 1
	}
	if b := t.placed.balancing; b != nil {
		t.host.mine[1] = float64(b.Rounds)
	}
	end := n + hostReportLen
	t.Device.Write(t.Stream, mine.Narrow(0, n, end).Region(), device.BytesOf(t.host.mine[:]))
	if auxiliary := t.placed.executor.AuxiliaryLosses(); !auxiliary.IsZero() {
		t.Device.Copy(t.Stream, mine.Narrow(0, end, width), auxiliary.Reshape(width-end))
	}
	return t.world.AllGather(t.placed.report.Region(), nil, t.Stream.Record())
}

// readReport returns the sum of the label tokens' losses: those of all micro batches, added in their order in float64. stop
// is true when any rank was told to stop, so that all stop after the same step.
func (t *Trainer) readReport() (sum float64, stop bool, err error) {
	if t.host.report == nil {
		t.host.report = make([]float64, t.placed.report.Len())
	}
	if err := t.Device.Read(t.Stream, device.BytesOf(t.host.report), t.placed.report.Region()); err != nil {
		return 0, false, err
	}
	n, width := t.MyMicroBatches, t.reportWidth()
	for at := n; at < len(t.host.report); at += width {
		stop = stop || t.host.report[at] != 0
	}
	for d := range t.Mesh.Size(mesh.Data) {
		for m := range n {
			sum += t.reported(d, t.headStage(), m)
		}
	}
	return sum, stop, nil
}

// rounds returns the most rounds that any rank reports. The report has been read.
func (t *Trainer) rounds() (most int) {
	for at := t.MyMicroBatches + 1; at < len(t.host.report); at += t.reportWidth() {
		most = max(most, int(t.host.report[at]))
	}
	return most
}

// reported returns number i of the reports of a pipeline stage that works on the micro batches of a data coordinate: ranks that
// share sequences report parts of it, those that share matrices the same.
func (t *Trainer) reported(data, stage, i int) (sum float64) {
	at := t.Mesh.With(mesh.Tensor, 0).With(mesh.Data, data).With(mesh.Pipeline, stage)
	for c := range t.Mesh.Size(mesh.Context) {
		sum += t.host.report[at.With(mesh.Context, c).Rank*t.reportWidth()+i]
	}
	return sum
}

// eachAuxiliary calls f with the auxiliary losses of all micro batches of the step, in their order, and their number within one.
func (t *Trainer) eachAuxiliary(f func(i int, loss float64)) {
	each := t.Model.AuxiliaryLosses()
	for d := range t.Mesh.Size(mesh.Data) {
		for i := range t.MyMicroBatches * each {
			loss := 0.0
			for stage := range t.Mesh.Size(mesh.Pipeline) {
				loss += t.reported(d, stage, t.MyMicroBatches+hostReportLen+i) // one stage has the layer, the others a zero
			}
			f(i%each, loss)
		}
	}
}

// predictionLoss returns the loss of multi-token prediction, the mean over its modules and over the step's label tokens, of which
// the last ones of each sample have none. The report has been read.
func (t *Trainer) predictionLoss(labels int64) float64 {
	modules := t.Model.Predictors()
	if modules == 0 {
		return 0
	}
	first, sum := t.Model.AuxiliaryLosses()-modules, 0.0
	t.eachAuxiliary(func(i int, v float64) {
		if i >= first {
			sum += v
		}
	})
	return mean(sum, labels) / float64(modules)
}
