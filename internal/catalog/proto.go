package catalog

import catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"

// TableToProto converts for the wire and for the catalog's disk state.
func TableToProto(t *Table) *catalogv1.Table {
	p := &catalogv1.Table{Id: t.ID, Namespace: t.Namespace, Name: t.Name, Kind: catalogv1.TableKind(t.Kind),
		SchemaVersion: t.SchemaVersion, Owner: t.Owner, CreatedAtUs: t.CreatedAtUS, UpdatedAtUs: t.UpdatedAtUS,
		AccessLevel: catalogv1.AccessLevel(t.Access), NextColumnId: t.NextColumnID,
		PartitionColumnId: t.PartitionColumnID, Partitions: t.Partitions,
		Options: &catalogv1.TableOptions{StorageId: t.Options.StorageID, UseUserStorage: t.Options.UseUserStorage,
			FlushRows: t.Options.FlushRows, FlushIntervalSeconds: t.Options.FlushIntervalSeconds,
			TtlSeconds: t.Options.TTLSeconds, Ephemeral: t.Options.Ephemeral, MaxBufferRows: t.Options.MaxBufferRows,
			DeletedRetentionHours: t.Options.DeletedRetentionHours, Compression: t.Options.Compression,
			OwnerId: t.Options.OwnerID}}
	for i := range t.Columns {
		p.Columns = append(p.Columns, ColumnToProto(&t.Columns[i]))
	}
	return p
}

// ColumnToProto converts a column.
func ColumnToProto(c *Column) *catalogv1.Column {
	return &catalogv1.Column{Id: c.ID, Name: c.Name, Type: TypeToProto(c.Type), NotNull: c.NotNull,
		PrimaryKey: c.PrimaryKey, Hidden: c.Hidden, Unique: c.Unique,
		Default: &catalogv1.Default{Kind: catalogv1.DefaultKind(c.Default.Kind), Literal: c.Default.Literal}, Missing: c.Missing}
}

// TypeToProto converts a type.
func TypeToProto(t Type) *catalogv1.Type {
	return &catalogv1.Type{Kind: catalogv1.TypeKind(t.Kind), Precision: uint32(t.Precision), Scale: uint32(t.Scale),
		Dimension: uint32(t.Dimension)}
}

// TypeFromProto converts back.
func TypeFromProto(p *catalogv1.Type) Type {
	return Type{Kind: TypeKind(p.GetKind()), Precision: uint8(p.GetPrecision()), Scale: uint8(p.GetScale()),
		Dimension: uint16(p.GetDimension())}
}

// TableFromProto converts back and indexes.
func TableFromProto(p *catalogv1.Table) *Table {
	o := p.GetOptions()
	t := &Table{ID: p.GetId(), Namespace: p.GetNamespace(), Name: p.GetName(), Kind: TableKind(p.GetKind()),
		SchemaVersion: p.GetSchemaVersion(), Owner: p.GetOwner(), CreatedAtUS: p.GetCreatedAtUs(),
		UpdatedAtUS: p.GetUpdatedAtUs(), Access: AccessLevel(p.GetAccessLevel()), NextColumnID: p.GetNextColumnId(),
		PartitionColumnID: p.GetPartitionColumnId(), Partitions: p.GetPartitions(),
		Options: TableOptions{StorageID: o.GetStorageId(), UseUserStorage: o.GetUseUserStorage(),
			FlushRows: o.GetFlushRows(), FlushIntervalSeconds: o.GetFlushIntervalSeconds(),
			TTLSeconds: o.GetTtlSeconds(), Ephemeral: o.GetEphemeral(), MaxBufferRows: o.GetMaxBufferRows(),
			DeletedRetentionHours: o.GetDeletedRetentionHours(), Compression: o.GetCompression(),
			OwnerID: o.GetOwnerId()}}
	for _, c := range p.GetColumns() {
		t.Columns = append(t.Columns, Column{ID: c.GetId(), Name: c.GetName(), Type: TypeFromProto(c.GetType()),
			NotNull: c.GetNotNull(), PrimaryKey: c.GetPrimaryKey(), Unique: c.GetUnique(), Hidden: c.GetHidden(),
			Default: Default{Kind: DefaultKind(c.GetDefault().GetKind()), Literal: c.GetDefault().GetLiteral()}, Missing: c.GetMissing()})
	}
	return t.Index()
}

// IdentityToProto converts for the wire.
func IdentityToProto(id Identity) *catalogv1.Identity {
	return &catalogv1.Identity{UserId: id.UserID, Role: catalogv1.Role(id.Role), ActorUserId: id.ActorUserID}
}

// IdentityFromProto converts back.
func IdentityFromProto(p *catalogv1.Identity) Identity {
	return Identity{UserID: p.GetUserId(), Role: Role(p.GetRole()), ActorUserID: p.GetActorUserId()}
}
