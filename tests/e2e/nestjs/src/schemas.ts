import { Prop, Schema, SchemaFactory } from '@nestjs/mongoose';
import { Schema as MongooseSchema, Types, model } from 'mongoose';

export const STATES = ['pending', 'in_progress', 'succeeded', 'failed'] as const;
export type State = (typeof STATES)[number];

const Mixed = MongooseSchema.Types.Mixed;
const offline = { autoCreate: false, autoIndex: false, minimize: false, versionKey: false } as const;

@Schema(offline)
export class AiTask {
  _id: Types.ObjectId;

  @Prop({ required: true })
  type: string;

  @Prop({ type: String, enum: STATES, default: 'pending', index: true })
  state: State;

  @Prop({ type: Mixed, required: true })
  content: unknown;

  @Prop()
  callbackRoute?: string;

  @Prop({ type: Mixed })
  callbackParams?: Record<string, string>;

  @Prop({ type: Mixed })
  result?: unknown;

  @Prop({ type: Mixed })
  error?: { code: string; message: string };

  /** The callback has run: a repeated PATCH must not run it again. */
  @Prop()
  calledBackAt?: Date;

  @Prop({ default: () => new Date() })
  createdAt: Date;
}

/** Some document that waits for an embedding. */
@Schema({ ...offline, strict: false })
export class Target {
  _id: Types.ObjectId;

  @Prop({ default: 0 })
  updates: number;
}

export const AiTaskModel = model('AiTask', SchemaFactory.createForClass(AiTask));
export const TargetModel = model('Target', SchemaFactory.createForClass(Target));
