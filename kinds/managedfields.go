package kinds

import "github.com/rutterhq/rutter/kernel"

func (f *finisher) manageFields(o, old kernel.Object) *kernel.Refusal { return nil }
