package think_test

import (
	"encoding/json"
	"math"
	"os"
	"testing"

	"libthink/think"
)

// What the build tag think_calls asks for when all tests have run.
var whenDone func() int

func TestMain(m *testing.M) {
	switch os.Getenv(alone) {
	case "guest":
		os.Exit(beGuest())
	case "panic":
		os.Exit(panicInHook())
	}
	code := m.Run()
	if whenDone != nil && code == 0 {
		code = whenDone()
	}
	os.Exit(code)
}

const (
	HQ  = 4
	HKV = 2
	D   = 16
	T   = 200
)

// from reads a file of the repository.
func from(t testing.TB, path string, to any) {
	t.Helper()
	text, err := os.ReadFile("../../" + path)
	must(t, err)
	must(t, json.Unmarshal(text, to))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expect(t testing.TB, right bool, what ...any) {
	t.Helper()
	if !right {
		t.Fatal(what...)
	}
}

func noise(seed, count int) []float32 {
	made := make([]float32, count)
	for i := range made {
		made[i] = float32((i*7919+seed*104729)%2003)/1001 - 1
	}
	return made
}

// attention of the last token in float64: [HQ][D].
func attention(query, key, value []float32, tokens int) ([]float64, []float64) {
	output, lse := make([]float64, HQ*D), make([]float64, HQ)
	for head := range lse {
		kv, total, weights := head/(HQ/HKV)*tokens*D, 0.0, make([]float64, tokens)
		for t := range weights {
			dot := 0.0
			for j := 0; j < D; j++ {
				dot += float64(query[head*D+j]) * float64(key[kv+t*D+j])
			}
			weights[t] = math.Exp(dot / math.Sqrt(D))
			total += weights[t]
		}
		lse[head] = math.Log(total)
		for t, weight := range weights {
			for j := 0; j < D; j++ {
				output[head*D+j] += weight / total * float64(value[kv+t*D+j])
			}
		}
	}
	return output, lse
}

func near(t testing.TB, found []float32, expected []float64, tolerance float64) {
	t.Helper()
	expect(t, len(found) == len(expected), len(found), "numbers instead of", len(expected))
	for i := range found {
		if !(math.Abs(float64(found[i])-expected[i]) < tolerance) {
			t.Fatalf("number %d is %v instead of %v", i, found[i], expected[i])
		}
	}
}

// last token of [HQ][T][D].
func last(rows []float32) []float32 {
	var made []float32
	for head := 0; head < HQ; head++ {
		made = append(made, rows[(head*T+T-1)*D:][:D]...)
	}
	return made
}

func newPlan(t testing.TB) *think.Plan {
	t.Helper()
	context, err := think.NewContext(&think.ContextOptions{Hooks: think.Hooks{Log: func(int32, string) {}}})
	must(t, err)
	defer context.Close()
	problem := think.Problem{QueryHeads: HQ, KVHeads: HKV, KeyChannels: D, Window: 8, MaxQueries: T, MaxBatch: 2, MaxTokens: 512, CacheDtype: think.F32}
	must(t, context.Supports(problem))
	plan, err := think.NewPlan(context, problem)
	must(t, err)
	t.Cleanup(func() { plan.Close() })
	return plan
}
