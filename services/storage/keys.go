package storage

import (
	"context"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/keyring"
	"github.com/kalamdb/kalamdb-go/internal/pause"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// rewrapAgain is the pause after the cluster key could not be wrapped by the new master key.
const rewrapAgain = 10 * time.Second

// openKeys makes the ring of a node, from the master keys it was given.
func (s *Storage) openKeys(context.Context) error {
	master, err := masterKey(s.cfg.Master, s.cfg.MasterKey, "master_key")
	if err != nil {
		return err
	}
	previous, err := masterKey(nil, s.cfg.PreviousMasterKey, "previous_master_key")
	if err != nil {
		return err
	}
	s.keys = keyring.New(master, previous, clusterKey{s})
	return nil
}

// masterKey is the one given, or the one that a setting has; nil when there is none.
func masterKey(given keyring.Master, text, setting string) (keyring.Master, error) {
	if given != nil || text == "" {
		return given, nil
	}
	m, err := keyring.Local(text)
	if err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "storage.%s: %w", setting, err)
	}
	return m, nil
}

// checkKeys refuses to start with a master key that is not the cluster's.
func (s *Storage) checkKeys(ctx context.Context) error { return s.keys.Check(ctx) }

// clusterKey is the catalog as the place of the cluster key.
type clusterKey struct{ node *Storage }

func (c clusterKey) ClusterKey() keyring.WrappedKey {
	k := c.node.catalog.ClusterKey()
	return keyring.WrappedKey{Wrapped: k.GetWrapped(), MasterID: k.GetMasterId()}
}

// SetClusterKey returns when this node's catalog has a key that is not the one replaced.
func (c clusterKey) SetClusterKey(ctx context.Context, k keyring.WrappedKey, replaced []byte) error {
	_, err := catalogv1.NewCatalogServiceClient(c.node.router.Catalog()).Apply(ctx, &catalogv1.ApplyRequest{Command: &catalogv1.Command{
		Command: &catalogv1.Command_SetClusterKey{SetClusterKey: &catalogv1.SetClusterKey{
			Key: &catalogv1.ClusterKey{Wrapped: k.Wrapped, MasterId: k.MasterID}, Replaced: replaced}}}})
	if err != nil {
		return err
	}
	return c.awaitOther(ctx, replaced)
}

// awaitOther returns when this node's catalog has a key that is not the one given; nil: any.
func (c clusterKey) awaitOther(ctx context.Context, than []byte) error {
	for {
		moved := c.node.catalog.Moved()
		if string(c.ClusterKey().Wrapped) != string(than) {
			return nil
		}
		select {
		case <-moved:
		case <-time.After(catalogPollPause): // a snapshot moves nothing
		case <-ctx.Done():
			return dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "wait for the cluster key: %w", ctx.Err())
		}
	}
}

// rewrapping is the office that has a new master key wrap the cluster key.
type rewrapping struct {
	node *Storage

	mu     sync.Mutex // serializes Lead and Follow
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// Lead begins: this node leads the catalog. Follow ends it.
func (r *rewrapping) Lead(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end()
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	r.work.Go(func() { r.run(ctx) })
}

// Follow ends what Lead began, and waits for it.
func (r *rewrapping) Follow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end()
}

func (r *rewrapping) end() {
	if r.cancel != nil {
		r.cancel()
		r.cancel = nil
		r.work.Wait()
	}
}

func (r *rewrapping) run(ctx context.Context) {
	for {
		done, err := r.node.keys.Rewrap(ctx)
		if done && err == nil {
			r.node.cfg.Logger.InfoContext(ctx, "the cluster key is wrapped by another master key", "master_key", r.node.catalog.ClusterKey().GetMasterId())
		}
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			r.node.cfg.Logger.WarnContext(ctx, "have the new master key wrap the cluster key", "error", err)
		}
		if pause.For(ctx, rewrapAgain) != nil {
			return
		}
	}
}
