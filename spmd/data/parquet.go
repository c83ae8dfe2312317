package data

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/parquet-go/parquet-go"
)

// parquetInput has a document per row: the text in a column or, where column is "", the whole row as a JSON object.
type parquetInput struct {
	paths  []string
	column string
}

// minCompressed is the least that a piece of a Parquet file takes in it; text does not shrink to less.
const minCompressed = pieceBytes / 4096

// A parquetFile is an open Parquet file.
type parquetFile struct {
	*parquet.File
	file *os.File
}

// openParquet opens a file and reads its footer. The library panics on some damaged files; that is an error here.
func openParquet(path string) (f parquetFile, err error) {
	file, err := os.Open(path)
	if err != nil {
		return f, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return f, err
	}
	if err := checkFooter(file, info.Size()); err != nil {
		return f, fmt.Errorf("%s is no Parquet file, or damaged: %w", path, err)
	}
	err = guardParquet(path, func() error {
		opened, err := parquet.OpenFile(file, info.Size(), parquet.SkipBloomFilters(true), parquet.SkipPageIndex(true))
		if err != nil {
			return fmt.Errorf("%s is no Parquet file, or damaged: %w", path, err)
		}
		f = parquetFile{opened, file}
		return nil
	})
	return f, err
}

// checkFooter checks the end of a file, by which the library allocates memory: the length of the footer and "PAR1".
func checkFooter(file io.ReaderAt, size int64) error {
	const tail = 8
	var end [tail]byte
	if size < tail {
		return errors.New("it is too short")
	}
	if _, err := file.ReadAt(end[:], size-tail); err != nil {
		return err
	}
	if string(end[4:]) != "PAR1" {
		return fmt.Errorf("it ends with %q, not with \"PAR1\"", end[4:])
	}
	if n := int64(binary.LittleEndian.Uint32(end[:])); n > size-tail {
		return fmt.Errorf("byte %d: a footer of %d bytes does not fit", size-tail, n)
	}
	return nil
}

// guardParquet runs f, which reads a Parquet file, and turns a panic of the library into an error.
func guardParquet(path string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s is a damaged Parquet file: %v", path, r)
		}
	}()
	return f()
}

// textColumn returns the number of the leaf column with the text.
func (f parquetFile) textColumn(name string) (int, error) {
	leaf, ok := f.Schema().Lookup(name)
	if !ok {
		var names []string
		for _, field := range f.Schema().Fields() {
			names = append(names, fmt.Sprintf("%q", field.Name()))
		}
		return 0, fmt.Errorf("there is no column %q, the columns are %s; set the text key", name, strings.Join(names, ", "))
	}
	if leaf.Node.Type().Kind() != parquet.ByteArray || leaf.MaxRepetitionLevel > 0 {
		return 0, fmt.Errorf("column %q has %s, not one text a row", name, leaf.Node.Type())
	}
	return leaf.ColumnIndex, nil
}

func (in parquetInput) pieces() ([]piece, error) {
	var all []piece
	for i, path := range in.paths {
		f, err := openParquet(path)
		if err != nil {
			return nil, err
		}
		err = guardParquet(path, func() error {
			column := -1
			if in.column != "" {
				if column, err = f.textColumn(in.column); err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
			}
			all = append(all, f.pieces(i, column)...)
			return nil
		})
		if err := errors.Join(err, f.file.Close()); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// pieces cuts the row groups of file number i up by the size of a column, -1 for all of them.
func (f parquetFile) pieces(i, column int) []piece {
	var all []piece
	first := int64(0)
	for _, group := range f.Metadata().RowGroups {
		size := group.TotalByteSize
		if column >= 0 && column < len(group.Columns) {
			size = group.Columns[column].MetaData.TotalUncompressedSize
		}
		// Neither number is to be trusted before the rows are read: a damaged file may not make an endless list.
		parts := min(max(size/pieceBytes, 1), max(group.NumRows, 1), 1+f.Size()/minCompressed)
		for k := range parts {
			a, b := group.NumRows*k/parts, group.NumRows*(k+1)/parts
			if a < b {
				all = append(all, piece{file: i, first: first + a, last: first + b, bytes: size / parts})
			}
		}
		first += max(group.NumRows, 0)
	}
	return all
}

func (in parquetInput) read(p piece, record func([]byte) error) error {
	path := in.paths[p.file]
	f, err := openParquet(path)
	if err != nil {
		return err
	}
	row := p.first
	counted := func(text []byte) error {
		if err := record(text); err != nil {
			return fmt.Errorf("%s: row %d: %w", path, row, err)
		}
		row++
		return nil
	}
	err = guardParquet(path, func() error {
		first := int64(0)
		for _, group := range f.RowGroups() {
			if p.first < first+group.NumRows() {
				return f.readGroup(group, p.first-first, p.last-p.first, in.column, counted)
			}
			first += group.NumRows()
		}
		return fmt.Errorf("%s has no row %d any more; data must not change during a run", path, p.first)
	})
	if err == nil && row != p.last {
		err = fmt.Errorf("%s: row %d cannot be read; the file is damaged", path, row)
	}
	return errors.Join(err, f.file.Close())
}

// readGroup hands over n rows of a row group.
func (f parquetFile) readGroup(group parquet.RowGroup, first, n int64, column string, record func([]byte) error) error {
	if column == "" {
		return readRows(group, first, n, record)
	}
	index, err := f.textColumn(column)
	if err != nil {
		return err
	}
	pages := group.ColumnChunks()[index].Pages()
	err = pages.SeekToRow(first)
	for err == nil && n > 0 {
		var page parquet.Page
		if page, err = pages.ReadPage(); err == nil {
			var done int64
			done, err = readPage(page, n, record)
			n -= done
			parquet.Release(page)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil // the caller counts
	}
	return errors.Join(err, pages.Close())
}

// readPage hands over at most n texts of a page and says how many they were.
func readPage(page parquet.Page, n int64, record func([]byte) error) (int64, error) {
	values, done := page.Values(), int64(0)
	buffer := make([]parquet.Value, 256)
	for done < n {
		k, err := values.ReadValues(buffer[:min(n-done, int64(len(buffer)))])
		for _, v := range buffer[:k] {
			if v.IsNull() {
				return done, fmt.Errorf("row %d of the page: the text is null; remove such rows", done)
			}
			if err := record(v.ByteArray()); err != nil {
				return done, err
			}
			done++
		}
		if errors.Is(err, io.EOF) {
			return done, nil
		}
		if err == nil && k == 0 {
			err = io.ErrNoProgress
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readRows hands over n rows of a row group as JSON objects.
func readRows(group parquet.RowGroup, first, n int64, record func([]byte) error) error {
	rows := group.Rows()
	err := rows.SeekToRow(first)
	buffer := make([]parquet.Row, 1)
	for err == nil && n > 0 {
		var k int
		if k, err = rows.ReadRows(buffer); k == 0 {
			if err == nil {
				err = io.ErrNoProgress
			}
			continue
		}
		err = nil
		n--
		var object []byte
		if object, err = rowObject(group.Schema(), buffer[0]); err == nil {
			err = record(object)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, rows.Close())
}

// rowObject writes a row as JSON, lists and structs within it as they are nested.
func rowObject(schema *parquet.Schema, row parquet.Row) ([]byte, error) {
	var value any
	if err := schema.Reconstruct(&value, row); err != nil {
		return nil, err
	}
	return json.Marshal(value)
}
