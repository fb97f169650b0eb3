package kinds

import (
	"time"

	"github.com/rutterhq/rutter/kernel"
)

// retryRefused is how long a decision waits of whose changes one was refused.
const retryRefused = time.Second

// Refused implements kernel.Schema.
func (Schema) Refused(_ *kernel.View, _ string, _ kernel.Key, why []*kernel.Refusal, now time.Time) (*kernel.Change, time.Time) {
	for _, r := range why {
		if r != nil {
			return nil, now.Add(retryRefused)
		}
	}
	return nil, time.Time{}
}
