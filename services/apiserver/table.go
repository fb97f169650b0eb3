package apiserver

import (
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// metaGroup is the group of the types that show parts of other types.
const metaGroup = "meta.k8s.io"

// includeObject checks what of each object a table's rows shall carry.
func (r *request) includeObject() (metav1.IncludeObjectPolicy, error) {
	p := metav1.IncludeObjectPolicy(r.query.Get("includeObject"))
	switch p {
	case "":
		return metav1.IncludeMetadata, nil
	case metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject:
		return p, nil
	}
	return p, badRequest("includeObject must be one of None, Metadata, Object")
}

// tableOf shows objects as a table with the kind's columns.
func (r *request) tableOf(f form, objects []kernel.Object) (*metav1.Table, error) {
	include, err := r.includeObject()
	if err != nil {
		return nil, err
	}
	t := &metav1.Table{ColumnDefinitions: r.row.ColumnDefinitions(), Rows: make([]metav1.TableRow, len(objects))}
	t.SetGroupVersionKind(schema.GroupVersionKind{Group: metaGroup, Version: f.version, Kind: "Table"})
	now := time.Now()
	for i, o := range objects {
		t.Rows[i].Cells = r.row.Cells(o, now)
		switch include {
		case metav1.IncludeMetadata:
			t.Rows[i].Object.Raw, err = json.Marshal(partialOf(o, f.version))
		case metav1.IncludeObject:
			t.Rows[i].Object.Raw, err = kinds.EncodeJSON(o)
		}
		if err != nil {
			return nil, fmt.Errorf("encode row %s: %w", o.GetName(), err)
		}
	}
	return t, nil
}

func (r *request) table(f form, objects []kernel.Object) ([]byte, error) {
	t, err := r.tableOf(f, objects)
	if err != nil {
		return nil, err
	}
	if len(objects) == 1 {
		t.ResourceVersion = objects[0].GetResourceVersion()
	}
	return json.Marshal(t)
}

// partialOf is an object without all but its metadata.
func partialOf(o kernel.Object, version string) *metav1.PartialObjectMetadata {
	p := &metav1.PartialObjectMetadata{ObjectMeta: metaOf(o)}
	p.SetGroupVersionKind(schema.GroupVersionKind{Group: metaGroup, Version: version, Kind: "PartialObjectMetadata"})
	return p
}

func metaOf(o kernel.Object) metav1.ObjectMeta {
	if a, ok := o.(metav1.ObjectMetaAccessor); ok {
		if m, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
			return *m
		}
	}
	panic(fmt.Sprintf("%T keeps its metadata elsewhere than in an ObjectMeta", o))
}

func (f form) partial(o kernel.Object) ([]byte, error) {
	p := partialOf(o, f.version)
	return f.encode(p, p.GroupVersionKind())
}

// partialList is a list of objects without all but their metadata.
func (f form) partialList(meta metav1.ListMeta, objects []kernel.Object) ([]byte, error) {
	l := &metav1.PartialObjectMetadataList{ListMeta: meta, Items: make([]metav1.PartialObjectMetadata, len(objects))}
	for i, o := range objects {
		l.Items[i] = *partialOf(o, f.version)
	}
	return f.encode(l, schema.GroupVersionKind{Group: metaGroup, Version: f.version, Kind: "PartialObjectMetadataList"})
}
