package think_test

import (
	"testing"

	"libthink/think"
)

// What a call costs: one that does next to nothing, and attention over a thousand tokens to compare it with.
func BenchmarkTrivialCall(b *testing.B) {
	for i := 0; i < b.N; i++ {
		if think.Version() == 0 {
			b.Fatal("there is no library")
		}
	}
}

func benchmarkAttend(b *testing.B, tokens int) {
	const queryHeads, heads, channels = 8, 2, 128
	context, err := think.NewContext(nil)
	must(b, err)
	plan, err := think.NewPlan(context, think.Problem{QueryHeads: queryHeads, KVHeads: heads, KeyChannels: channels, MaxTokens: 1024, CacheDtype: think.F32})
	must(b, err)
	defer plan.Close()
	rows := noise(1, heads*tokens*channels)
	segments := []think.Segment{think.DenseSegment(plan, rows, rows, tokens, []int32{int32(tokens)})}
	query := think.NewTensor(noise(2, queryHeads*channels), 1, queryHeads, 1, channels)
	output := think.NewTensor(make([]float32, queryHeads*channels), 1, queryHeads, 1, channels)
	workspace, err := plan.Workspace([]int32{think.StageAttend}, nil)
	must(b, err)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		must(b, plan.Attend(query, segments, nil, output, nil, workspace))
	}
}

func BenchmarkAttend1Token(b *testing.B)     { benchmarkAttend(b, 1) }
func BenchmarkAttend1024Tokens(b *testing.B) { benchmarkAttend(b, 1024) }
