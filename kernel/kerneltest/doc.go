// Package kerneltest tests deciders by stories: txtar files in testdata that
// alternate what happens with what is wanted.
//
//	The point of the story, in a sentence or two.
//	-- given --
//	user:admin replicasets.apps/default/web
//	spec: {replicas: 2, …}
//	-- want --
//	2 controllers/replicaset pod.created pods/default/web-x2k9p
//	    spec.containers[0].image: nginx
//	3 …
//	events: 3
//
// A given section is a list of steps, divided by lines of "---":
//
//	SOURCE KEY [TYPE]          the object is created, or merged with what is there (YAML follows)
//	SOURCE delete KEY [now]    as kubectl delete does; now: without grace
//	wait DURATION              the clock goes on
//	agents on|off              a model of the nodes starts and ends bound pods
//
// After each section the deciders run until nothing is left to decide; timers
// within settleFor are followed. The want section then lists what they did:
// the event, and the fields that it changed; of several creates by one actor
// only the first is shown with its fields. With -update the want sections are
// written anew: commit only differences that you understand.
//
// Beside the story, every run checks that each decision is the same when it is
// made twice, that deciders leave the View's objects as they are, that the
// story settles, and that every decision replays from the log.
package kerneltest
