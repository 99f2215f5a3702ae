package copier

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestFacts(t *testing.T) {
	type table struct {
		ID string `json:"id"`
	}
	fact, err := NewFact(2, table{"<1>"})
	if err != nil {
		t.Fatal(err)
	}
	info := Info{Facts: Facts{"dynamodb": fact}}
	data, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	var back Info
	if err := json.Unmarshal(data, &back); err != nil || !reflect.DeepEqual(back, info) {
		t.Errorf("%+v became %+v, %v", info, back, err)
	}
	for _, c := range []struct {
		name    string
		version int
		want    string
		ok      bool
	}{
		{"dynamodb", 2, "<1>", true},
		{"dynamodb", 1, "before", false},
		{"raft", 2, "before", false},
	} {
		v := table{"before"}
		if ok, err := back.Facts.Get(c.name, c.version, &v); err != nil || ok != c.ok || v.ID != c.want {
			t.Errorf("%s, version %d: %q, %v, %v", c.name, c.version, v.ID, ok, err)
		}
	}
	if ok, err := back.Facts.Get("dynamodb", 2, new(int)); !ok || err == nil {
		t.Errorf("a fact of another form: %v, %v", ok, err)
	}
	if _, err := NewFact(1, func() {}); err == nil {
		t.Error("a function is a fact")
	}
}
