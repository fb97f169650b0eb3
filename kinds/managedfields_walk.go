package kinds

import (
	"time"

	"github.com/rutterhq/rutter/kernel"
)

func walked(row Row, subresource string, o, old kernel.Object, manager string, now time.Time) bool {
	return false
}
