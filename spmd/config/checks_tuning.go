package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"lockstep/spmd/checkpoint"
	"lockstep/spmd/model"
)

// checkTuning checks what is to be trained where that is not the whole model.
func (l *loader) checkTuning() {
	c := l.config
	if !l.usable("lora.rank") {
		return
	}
	if c.LoRA.Rank == 0 {
		for _, s := range l.sections {
			for _, k := range s.keys {
				if s.name == "lora" && !reflect.DeepEqual(k.in(c).Interface(), k.in(Default()).Interface()) {
					l.problem(k.String(), "has no effect: there are no adapters, as lora.rank is 0", "set lora.rank, to 8 or 16, or remove it")
				}
			}
		}
		if l.usable("train.freeze") {
			if err := model.New(c.Architecture, model.Partition{}).Tune(model.Tuning{Freeze: c.Train.Freeze}); err != nil {
				l.problem("train.freeze", err.Error(), "leave something to train, by patterns such as \"model.layers.0.*\"")
			}
		}
		return
	}
	if len(c.Train.Freeze) > 0 {
		l.problem("train.freeze", "has no effect: lora.rank freezes the whole model", "remove one of the two")
	}
	if c.MoE.BiasUpdateRate > 0 {
		l.problem("moe.bias_update_rate", "has no effect: lora.rank freezes the routers too", "remove one of the two")
	}
	if c.Model.Path == "" || c.Model.Init == "random" || !checkpoint.HasWeights(c.Model.Path) {
		l.problem("lora.rank", "adapts a trained model, and this one's weights are random", "set model.path to a directory with weights")
	}
	if !l.usable("lora.target_modules", "lora.alpha", "lora.rslora", "lora.dropout", "lora.base_dtype") {
		return
	}
	m := model.New(c.Architecture, model.Partition{})
	if err := m.Tune(c.Tuning()); err != nil {
		l.problem("lora.target_modules", err.Error(), "name modules of the model")
	} else if l.usable("lora.init") && c.LoRA.Init != "" {
		l.checkAdapter(m)
	}
}

// checkAdapter compares the adapter in lora.init with the section and with the model's adapters.
func (l *loader) checkAdapter(m *model.Model) {
	c := l.config.LoRA
	a, err := checkpoint.OpenAdapter(c.Init)
	if err != nil {
		l.problem("lora.init", err.Error(), "give the directory of a LoRA adapter that PEFT or Lockstep has written")
		return
	}
	defer a.Close()
	var wrong []string
	differs := func(name string, theirs, ours any) {
		if theirs != ours {
			wrong = append(wrong, fmt.Sprintf("its %s is %v, here it is %v", name, theirs, ours))
		}
	}
	differs("r", a.Config.Rank, c.Rank)
	differs("lora_alpha", a.Config.Alpha, c.Alpha)
	differs("use_rslora", a.Config.RSLoRA, c.RSLoRA)
	if ours := m.Adapted(); !slices.Equal(a.Config.TargetModules, ours) {
		differs("set of target modules", strings.Join(a.Config.TargetModules, ", "), strings.Join(ours, ", "))
	}
	if wrong == nil {
		if err := m.CheckAdapter(a); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	if wrong != nil {
		l.problem("lora.init", c.Init+": "+strings.Join(wrong, "; "), "set the keys of [lora] to the adapter's")
	}
}
