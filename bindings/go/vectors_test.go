package think_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"libthink/think"
)

// tests/vectors/bindings.json: what every language has to do alike, errors with their texts included. The file says what each call is.
type vectors struct {
	KeptChannels [][3]float64 `json:"kept_channels"`
	Names        struct{ Status, Dtype map[string]string }
	Errors       []vector
	Flows        []vector
}

type vector struct {
	Call              string
	Name              string
	Problem, Cache    json.RawMessage
	Options           json.RawMessage
	Key, Query, Value json.RawMessage // extents, or the key of a query
	Sequence, Layer   int
	Stage             int32
	Tokens            int64
	PageTokens        int   `json:"page_tokens"`
	TotalKey          int64 `json:"total_key"`
	TotalValue        int64 `json:"total_value"`
	Sequences         []int32
	NewTokens         []int32 `json:"new_tokens"`
	Bytes             string
	Prompt            int
	Tolerance         float64
	Output, LSE       [][]float64
	Usage             json.RawMessage
	Error             struct {
		Code, Argument int32
		NativeCode     int32 `json:"native_code"`
		Message        string
	}
}

// fields sets those of a struct, which must have all of them: key_channels is KeyChannels.
func fields(t testing.TB, text json.RawMessage, to any) {
	t.Helper()
	if len(text) == 0 {
		return
	}
	var names map[string]json.RawMessage
	must(t, json.Unmarshal(text, &names))
	for name, value := range names {
		delete(names, name)
		names[strings.ReplaceAll(name, "_", "")] = value
	}
	plain, err := json.Marshal(names)
	must(t, err)
	decoder := json.NewDecoder(bytes.NewReader(plain))
	decoder.DisallowUnknownFields()
	must(t, decoder.Decode(to))
}

func cacheOptions(t testing.TB, text json.RawMessage) think.CacheOptions {
	var from struct {
		Layers        int
		Prune, Format json.RawMessage
	}
	fields(t, text, &from)
	options := think.CacheOptions{Layers: from.Layers}
	if from.Prune != nil {
		options.Prune = new(think.PruneOptions)
		fields(t, from.Prune, options.Prune)
	}
	if from.Format != nil {
		format := think.DefaultFormat()
		fields(t, from.Format, &format)
		options.Format = &format
	}
	return options
}

func numbers(seed uint32, count int) []float32 {
	made := make([]float32, count)
	for i := range made {
		x := uint32(i)*2654435761 + seed*40503 + 12345
		x = (x ^ x>>15) * 2246822519
		x = (x ^ x>>13) * 3266489917
		x ^= x >> 16
		made[i] = float32(float64(x)/2147483648 - 1)
	}
	return made
}

func seeded(seed uint32, heads int32, tokens int, channels int32, odd float32) think.Tensor {
	rows := numbers(seed, int(heads)*tokens*int(channels))
	for i := 1; i < len(rows); i += 2 {
		rows[i] *= odd
	}
	return think.NewTensor(rows, 1, int(heads), tokens, int(channels))
}

func layer(p think.Problem, seed uint32, tokens int) (think.Tensor, think.Tensor, think.Tensor) {
	return seeded(seed, p.QueryHeads, tokens, p.KeyChannels, 1), seeded(seed+1, p.KVHeads, tokens, p.KeyChannels, 0.125),
		seeded(seed+2, p.KVHeads, tokens, p.ValueChannels, 1)
}

func zeros(t testing.TB, text json.RawMessage) think.Tensor {
	var extent [4]int
	must(t, json.Unmarshal(text, &extent))
	return think.NewTensor(make([]float32, extent[0]*extent[1]*extent[2]*extent[3]), extent[0], extent[1], extent[2], extent[3])
}

func fail(t testing.TB, one vector) error {
	t.Helper()
	if one.Call == "query" {
		var key int32
		must(t, json.Unmarshal(one.Key, &key))
		_, err := think.Query(key)
		return err
	}
	var problem think.Problem
	fields(t, one.Problem, &problem)
	context, err := think.NewContext(nil)
	must(t, err)
	plan, err := think.NewPlan(context, problem)
	if err != nil {
		return err
	}
	switch one.Call {
	case "preview":
		var options think.PruneOptions
		fields(t, one.Options, &options)
		_, err = plan.PrunePreview(nil, one.Tokens, options)
		return err
	case "layout":
		_, err = plan.Layout(nil, one.PageTokens, one.TotalKey, one.TotalValue)
		return err
	case "workspace_size":
		_, _, err = plan.WorkspaceSize(one.Stage, nil)
		return err
	}
	cache, err := think.NewCache(plan, cacheOptions(t, one.Cache))
	if err != nil {
		return err
	}
	if one.NewTokens != nil {
		if err := cache.Step(one.Sequences, one.NewTokens); err != nil {
			return err
		}
	}
	switch one.Call {
	case "trim":
		return cache.Trim(one.Sequence, one.Tokens)
	case "prune":
		return cache.Prune(one.Sequences)
	case "load":
		data, err := hex.DecodeString(one.Bytes)
		must(t, err)
		return cache.Load(0, bytes.NewReader(data))
	case "append":
		return cache.Append(one.Layer, zeros(t, one.Query), zeros(t, one.Key), zeros(t, one.Value))
	case "attend":
		p := plan.Problem()
		output := make([]float32, p.QueryHeads*p.ValueChannels)
		return cache.Attend(one.Layer, zeros(t, one.Query), nil, think.NewTensor(output, 1, int(p.QueryHeads), 1, int(p.ValueChannels)), nil)
	}
	t.Fatal("no call ", one.Call)
	return nil
}

func TestErrorsAreTheSameInEveryLanguage(t *testing.T) {
	var all vectors
	from(t, "tests/vectors/bindings.json", &all)
	expect(t, len(all.Errors) > 20)
	for _, one := range all.Errors {
		err := fail(t, one)
		var failed *think.Error
		expect(t, errors.As(err, &failed), one.Call, "did not fail, but for", one.Error.Message)
		wanted := think.Error{Code: one.Error.Code, Argument: one.Error.Argument, NativeCode: one.Error.NativeCode, Message: one.Error.Message}
		expect(t, *failed == wanted, *failed, wanted)
		expect(t, err.Error() == wanted.Message && strings.HasPrefix(failed.Name(), "THINK_E_"))
		expect(t, errors.Is(err, &think.Error{Code: wanted.Code}) && !errors.Is(err, &think.Error{Code: wanted.Code + 1}))
	}
}

func TestFlowsAreTheSameInEveryLanguage(t *testing.T) {
	var all vectors
	from(t, "tests/vectors/bindings.json", &all)
	expect(t, len(all.Flows) > 3)
	for _, one := range all.Flows {
		var problem think.Problem
		fields(t, one.Problem, &problem)
		context, err := think.NewContext(nil)
		must(t, err)
		plan, err := think.NewPlan(context, problem)
		must(t, err)
		p, options := plan.Problem(), cacheOptions(t, one.Cache)
		cache, err := think.NewCache(plan, options)
		must(t, err)
		must(t, cache.Step([]int32{0}, []int32{int32(one.Prompt)}))
		for number := 0; number < options.Layers; number++ {
			q, k, v := layer(p, uint32(10*number), one.Prompt)
			must(t, cache.Append(number, q, k, v))
		}
		must(t, cache.Prune([]int32{0}))
		row, heads, channels := 0, int(p.QueryHeads), int(p.ValueChannels)
		for token := 1; token <= int(one.Tokens); token++ {
			must(t, cache.Step([]int32{0}, []int32{1}))
			for number := 0; number < options.Layers; number++ {
				q, k, v := layer(p, uint32(1000*token+10*number), 1)
				must(t, cache.Append(number, q, k, v))
				output, lse := make([]float32, heads*channels), make([]float32, heads)
				must(t, cache.Attend(number, q, nil, think.NewTensor(output, 1, heads, 1, channels), lse))
				near(t, output, one.Output[row], math.Nextafter(one.Tolerance, 1))
				near(t, lse, one.LSE[row], math.Nextafter(one.Tolerance, 1))
				row++
			}
		}
		expect(t, row == len(one.Output) && row > 0)
		usage, err := cache.Usage(0)
		must(t, err)
		var wanted think.CacheInfo
		fields(t, one.Usage, &wanted)
		wanted.Stamp()
		expect(t, reflect.DeepEqual(usage, wanted), one.Name, usage, wanted)
	}
}

func TestNamesAreTheSameInEveryLanguage(t *testing.T) {
	var all vectors
	from(t, "tests/vectors/bindings.json", &all)
	expect(t, len(all.KeptChannels) > 0 && len(all.Names.Status) > 0 && len(all.Names.Dtype) > 0)
	for _, one := range all.KeptChannels {
		expect(t, think.KeptChannels(int(one[0]), one[1]) == int(one[2]), one)
	}
	expect(t, think.KeptChannels(8, 1) == -1)
	number := func(text string) int32 {
		value, err := strconv.Atoi(text)
		must(t, err)
		return int32(value)
	}
	for code, name := range all.Names.Status {
		expect(t, think.StatusName(number(code)) == name, name)
	}
	for dtype, name := range all.Names.Dtype {
		expect(t, think.DtypeName(number(dtype)) == name, name)
	}
}
