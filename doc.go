// Package rutter holds no code: its tests hold the repository to the design,
// layering_test.go the direction of imports and tidy_test.go the habits.
package rutter
