package runtime

import "encoding/json"

// labelMax is how long a label's value may be, in bytes: containerd allows 4096
// for key and value.
const labelMax = 4000

// String gives the form in which an exit is kept in a label. A message that
// does not fit is left out.
func (x Exit) String() string {
	b, err := json.Marshal(x)
	if err == nil && len(b) > labelMax {
		x.Message = ""
		b, err = json.Marshal(x)
	}
	if err != nil {
		panic("an exit is always JSON: " + err.Error())
	}
	return string(b)
}

func parseExit(s string) *Exit {
	if s == "" {
		return nil
	}
	x := new(Exit)
	if json.Unmarshal([]byte(s), x) != nil {
		return &Exit{Code: 255, Lost: true, Reason: "ContainerStatusUnknown"}
	}
	return x
}
