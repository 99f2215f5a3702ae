package verify

import "errors"

// dropCache can't be done here.
func dropCache(string) error {
	return errors.New("this system can't be made to forget a file: " + errors.ErrUnsupported.Error())
}
