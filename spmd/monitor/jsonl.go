package monitor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
)

// A JSONL appends records to a file of JSON lines, metrics.jsonl:
//
//	{"step":1,"loss":5.6,"grad_norm":3.1,"lr":0,"tokens":8192,"step_time_ms":812.5,"tokens_per_second":10082.46}
//	{"step":100,"validation_loss":3.2,"validation_perplexity":24.532530197109352}
//	{"step":100,"checkpoint_stall_ms":41.8}
//
// Each line is one write, so that a reader never sees half of one and ranks that share the file do not mix theirs. A
// number is in the shortest form that reads back to the same float64. JSON has no infinity and no NaN: they become null,
// which readers take for a missing value. A resumed run appends, and writes the steps since its checkpoint again: the
// last line of a step counts.
type JSONL struct {
	file *os.File
	line []byte
}

// OpenJSONL opens the file at path for appending, or creates it. If the last line was torn by a crash, it is completed
// where only its end of line is missing, and else removed, so that every line of the file is JSON.
func OpenJSONL(path string) (*JSONL, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the metrics: %w", err)
	}
	if err := repairLastLine(file); err != nil {
		return nil, errors.Join(fmt.Errorf("repairing the last line of %s: %w", path, err), file.Close())
	}
	return &JSONL{file: file}, nil
}

// maxLine limits how far back the beginning of a torn line is sought: a line has a few hundred bytes, and a file that
// has none in this many is no file of metrics.
const maxLine = 1 << 20

// repairLastLine makes the file end with a whole line.
func repairLastLine(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	tail := make([]byte, min(size, maxLine))
	if _, err := file.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return err
	}
	torn := tail[bytes.LastIndexByte(tail, '\n')+1:]
	switch {
	case len(torn) == 0:
		return nil
	case torn[0] == '{' && json.Valid(torn):
		_, err := file.Write([]byte("\n"))
		return err
	case int64(len(torn)) < size && len(torn) == maxLine:
		return fmt.Errorf("no line ends in its last %d bytes; it is no file of metrics, move it away", maxLine)
	}
	return file.Truncate(size - int64(len(torn)))
}

// Step implements Sink.
func (j *JSONL) Step(r Step) error {
	j.line = strconv.AppendInt(append(j.line[:0], `{"step":`...), int64(r.Step), 10)
	j.number("loss", r.Loss)
	j.number("grad_norm", r.GradNorm)
	j.number("lr", r.LR)
	j.line = strconv.AppendInt(append(j.line, `,"tokens":`...), r.Tokens, 10)
	if r.PredictionLoss > 0 {
		j.number("mtp_loss", r.PredictionLoss)
	}
	if e := r.Experts; e.MaxLoad > 0 {
		j.number("aux_loss", e.BalanceLoss)
		j.number("z_loss", e.ZLoss)
		j.number("expert_load_max", e.MaxLoad)
		j.number("expert_load_min", e.MinLoad)
		if e.Dropped > 0 {
			j.number("dropped", e.Dropped)
		}
		if e.Rounds > 0 {
			j.line = strconv.AppendInt(append(j.line, `,"dispatch_rounds":`...), int64(e.Rounds), 10)
		}
	}
	j.number("step_time_ms", float64(r.Time)/1e6)
	j.number("tokens_per_second", r.TokensPerSecond())
	if r.Exposed > 0 {
		j.number("exposed_communication_ms", float64(r.Exposed)/1e6)
	}
	return j.write()
}

// Validation implements Sink.
func (j *JSONL) Validation(r Validation) error {
	j.line = strconv.AppendInt(append(j.line[:0], `{"step":`...), int64(r.Step), 10)
	j.number("validation_loss", r.Loss)
	j.number("validation_perplexity", r.Perplexity())
	return j.write()
}

// Checkpoint implements Sink.
func (j *JSONL) Checkpoint(r Checkpoint) error {
	j.line = strconv.AppendInt(append(j.line[:0], `{"step":`...), int64(r.Step), 10)
	j.number("checkpoint_stall_ms", float64(r.Stall)/1e6)
	return j.write()
}

// number appends a field to the line.
func (j *JSONL) number(name string, x float64) {
	j.line = append(append(append(j.line, `,"`...), name...), `":`...)
	if math.IsNaN(x) || math.IsInf(x, 0) {
		j.line = append(j.line, "null"...)
		return
	}
	j.line = strconv.AppendFloat(j.line, x, 'g', -1, 64)
}

// write ends the line and writes it.
func (j *JSONL) write() error {
	j.line = append(j.line, "}\n"...)
	if _, err := j.file.Write(j.line); err != nil {
		return fmt.Errorf("writing the metrics: %w", err)
	}
	return nil
}

// Close implements Sink.
func (j *JSONL) Close() error {
	if err := j.file.Close(); err != nil {
		return fmt.Errorf("closing the metrics: %w", err)
	}
	return nil
}
