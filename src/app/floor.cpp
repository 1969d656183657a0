namespace surgery {}
