package apiserver

func (r *request) apply(patch []byte, subresource, directive string, dryRun bool) error {
	return unsupportedMedia(patchTypes)
}

func (r *request) serveOpenAPI(path string) error { return errNotFoundPath }
