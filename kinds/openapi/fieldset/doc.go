// Package fieldset writes the fields that a new object sets, in the form of
// metadata.managedFields (FieldsV1), without building a set of them.
//
//	Go type + schema ─► Walker (once per kind) ─► Append(object) ─► {"f:data":{".":{},"f:a":{}}}
//
// The answer is byte for byte that of apimachinery's managedfields.FieldManager
// for the creation of the object: what the object has beyond an empty one of its
// type. It costs about one JSON encoding, where the FieldManager costs ten. An
// object with something unusual (a list that has a key twice, a name that JSON
// must escape, a field of free form) is refused: its fields are the
// FieldManager's to find, and so are those of updates and applies, where others
// own fields too.
package fieldset
