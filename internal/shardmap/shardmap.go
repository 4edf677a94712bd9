// Package shardmap says which shard holds a partition: user → slot by a stable hash → shard.
//
// The hash and the number of slots are part of the disk format: a user's rows stay where they were
// written. Slots, not users, are what moves between shards when a cluster is rebalanced.
package shardmap

import "encoding/binary"

// Slots is the number of hash slots. It bounds the number of shards.
const Slots = 1024

// UserSlot is the slot of a user's partitions: FNV-1a (64 bits) of the id's bytes, folded to 32 bits
// so that short ids spread, modulo Slots.
func UserSlot(userID string) uint16 {
	h := uint64(fnvOffset)
	for i := 0; i < len(userID); i++ {
		h = (h ^ uint64(userID[i])) * fnvPrime
	}
	return slotOf(h)
}

// TableSlot is the slot of a shared table.
func TableSlot(tableID uint32) uint16 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], tableID)
	h := uint64(fnvOffset)
	for _, c := range b {
		h = (h ^ uint64(c)) * fnvPrime
	}
	return slotOf(h)
}

// PartitionSlot is the slot of partition p of n of a shared table: the first as an unpartitioned table's, the
// others at equal distances around the circle of slots, so that they spread over any number of shards.
func PartitionSlot(tableID, p, n uint32) uint16 {
	return uint16((uint32(TableSlot(tableID)) + p*Slots/n) % Slots)
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func slotOf(h uint64) uint16 { return uint16((uint32(h) ^ uint32(h>>32)) % Slots) }

// Map assigns slots to shards. The zero Map has no shards.
type Map struct{ shards uint32 }

// Even spreads the slots over n shards in contiguous, nearly equal ranges.
func Even(n uint32) Map { return Map{shards: n} }

// Shards returns the number of shards; they are numbered from 0.
func (m Map) Shards() uint32 { return m.shards }

// ShardOf returns the shard that owns a slot.
func (m Map) ShardOf(slot uint16) uint32 { return uint32(slot) * m.shards / Slots }

// User returns the shard of a user's partitions.
func (m Map) User(userID string) uint32 { return m.ShardOf(UserSlot(userID)) }

// Table returns the shard of a shared table.
func (m Map) Table(tableID uint32) uint32 { return m.ShardOf(TableSlot(tableID)) }

// TablePartition returns the shard of partition p of n of a shared table.
func (m Map) TablePartition(tableID, p, n uint32) uint32 {
	return m.ShardOf(PartitionSlot(tableID, p, n))
}
