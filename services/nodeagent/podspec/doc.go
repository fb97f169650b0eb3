// Package podspec resolves what a pod's spec only names: environment
// variables from ConfigMaps, Secrets, fields and services, the files of its
// volumes, references in commands.
//
//	Pod + View + Facts of the node ──► values
//
// Everything here is pure: it reads a View and what the caller observed, and
// returns data or an Error that says what is missing. It writes nothing, and
// does not know where volumes are mounted.
package podspec
