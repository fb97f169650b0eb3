package runtime

import "encoding/json"

// String gives the form in which an exit is kept in a label.
func (x Exit) String() string {
	const messageMax = 2 << 10 // bytes; containerd allows 4 KiB for key and value
	if len(x.Message) > messageMax {
		x.Message = x.Message[:messageMax]
	}
	b, err := json.Marshal(x)
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
