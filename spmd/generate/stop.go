package generate

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"lockstep/spmd/checkpoint"
)

// StopTokens returns the tokens that end a text by eos_token_id of generation_config.json in the model directory dir, or else of
// config.json: none, one, or several, as models that chat have. A dir of "" has none.
func StopTokens(dir string) ([]int32, error) {
	if dir == "" {
		return nil, nil
	}
	for _, name := range []string{checkpoint.GenerationConfigName, "config.json"} {
		content, err := checkpoint.ReadConfig(dir, name)
		if err != nil {
			return nil, err
		}
		if content == nil {
			continue
		}
		var config struct {
			EOS *idOrIDs `json:"eos_token_id"`
		}
		if err := json.Unmarshal(content, &config); err != nil {
			return nil, fmt.Errorf("%s: %w; eos_token_id is an id or a list of ids", filepath.Join(dir, name), err)
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
