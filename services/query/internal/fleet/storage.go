package fleet

import (
	"context"

	"google.golang.org/grpc"

	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// StorageStats adds up the storage nodes' figures.
func (n *Nodes) StorageStats(ctx context.Context) (map[string]string, error) {
	answers, _, err := ask(ctx, n, func(ctx context.Context, c grpc.ClientConnInterface) (map[string]string, error) {
		resp, err := storagev1.NewStorageServiceClient(c).NodeStats(ctx, &storagev1.NodeStatsRequest{})
		return resp.GetMetrics(), err
	})
	return sum(answers), err
}

// TableStats adds up what the leaders hold of a table.
func (n *Nodes) TableStats(ctx context.Context, req *storagev1.TableStatsRequest) (*storagev1.TableStatsResponse, error) {
	answers, _, err := ask(ctx, n, func(ctx context.Context, c grpc.ClientConnInterface) (*storagev1.TableStatsResponse, error) {
		return storagev1.NewStorageServiceClient(c).TableStats(ctx, req)
	})
	out := &storagev1.TableStatsResponse{}
	for _, a := range answers {
		out.HotBytesEstimate += a.GetHotBytesEstimate()
		out.StreamRows += a.GetStreamRows()
		out.HotRows += a.GetHotRows()
		out.Segments += a.GetSegments()
		out.SegmentBytes += a.GetSegmentBytes()
		out.LastFlushedUs = max(out.LastFlushedUs, a.GetLastFlushedUs())
	}
	return out, err
}
