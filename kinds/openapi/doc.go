// Package openapi writes the OpenAPI documents that Rutter serves, by which
// clients explain, validate and merge objects.
//
//	kinds.All ─► paths ─┐
//	                    ├─► V3(apps/v1), V3(v1), ...   /openapi/v3/apis/apps/v1
//	models.Closure ─────┴─► V2()                       /openapi/v2
//
// The schemas are Kubernetes' own (package models); the paths derive from the
// rows, so a kind is documented by being one. Every function makes its document
// anew, in tens of milliseconds, and equal bytes each time: who serves them keeps
// them. What is in a document changes only with the program, which is why Index
// can name each version by a hash without making it.
//
// Descriptions of parameters are short here; those of fields are whole, for
// kubectl explain. The streams of a pod (log, exec, ...) are left out: clients
// know them without.
package openapi
