package generate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// StopTokens returns the tokens that end a text by eos_token_id of generation_config.json in the model directory dir, or else of
// config.json: none, one, or several, as models that chat have.
func StopTokens(dir string) ([]int32, error) {
	for _, name := range []string{"generation_config.json", "config.json"} {
		path := filepath.Join(dir, name)
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var config struct {
			EOS *idOrIDs `json:"eos_token_id"`
		}
		if err := json.Unmarshal(content, &config); err != nil {
			return nil, fmt.Errorf("%s: %w; eos_token_id is an id or a list of ids", path, err)
		}
		if config.EOS != nil {
			return *config.EOS, nil
		}
	}
	return nil, nil
}

// An idOrIDs is written as a number or as a list of numbers.
type idOrIDs []int32

// UnmarshalJSON implements json.Unmarshaler.
func (ids *idOrIDs) UnmarshalJSON(content []byte) error {
	if content[0] == '[' {
		return json.Unmarshal(content, (*[]int32)(ids))
	}
	*ids = make(idOrIDs, 1)
	return json.Unmarshal(content, &(*ids)[0])
}
